// Texts of the report page: numbers as people write them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace nibble::page {

// `digits` significant ones: "4.53", "0.0123", "12,300", "1.2e-6"; "infinite" and "not a number" for those.
std::string number(double value, int digits = 3);
// The shortest text that reads back as the same value; "Infinity" and "NaN" as JavaScript spells them.
std::string exact(double value);
// 0.9123: "91.2 %".
std::string percent(double fraction);
// 1234567: "1,234,567".
std::string count(int64_t value);
// Powers of ten: "11.5 MB"; of parameters "5.77 million".
std::string bytes(int64_t value);
std::string parameters(int64_t value);
// -3: "10⁻³".
std::string power_of_ten(int exponent);

// Coordinates: at most two decimals, no trailing zeros; `share` of a width as a percentage.
std::string coordinate(double value);
std::string share(double fraction);

}  // namespace nibble::page
