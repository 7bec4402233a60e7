// UTF-8 and the Unicode properties that tokenizers ask about (tables of utf8proc).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace nibble {

// One code point at `offset` of well-formed UTF-8; `offset` moves behind it.
char32_t next_code_point(std::string_view text, size_t& offset);
void append_code_point(std::string& out, char32_t code);

// Appends as much of `bytes` as is whole sequences, ill-formed ones (each maximal valid prefix, or single byte)
// replaced by U+FFFD, and returns how many bytes were used. At the end of the input (`final`) that is all of them;
// before, an unfinished sequence of up to three bytes may be left over.
size_t append_repaired(std::string& out, std::string_view bytes, bool final);
bool is_utf8(std::string_view text);
std::string repaired_utf8(std::string_view text);

bool is_whitespace(char32_t code);   // White_Space
bool is_numeric(char32_t code);      // Nd, Nl, No
bool is_punctuation(char32_t code);  // ASCII punctuation and symbols, and P* of the reference's older Unicode
bool is_mark(char32_t code);         // Mn, Mc, Me
bool is_word(char32_t code);         // \w: Alphabetic, M*, Nd, Pc, Join_Control

enum class NormalForm { nfc, nfd, nfkc, nfkd };
std::string normalized(std::string_view text, NormalForm form);
// Full lower-casing of every code point by itself (no final sigma).
std::string lowercased(std::string_view text);

// GPT-2's byte alphabet: each byte has a printable code point (! to ~ and most of Latin-1 stand for themselves,
// the others are moved to U+0100 and up), so that a vocabulary of bytes can be written as text.
std::string_view byte_symbol(unsigned char byte);  // as UTF-8
int symbol_byte(char32_t code);                    // -1: not in the alphabet
std::string to_byte_symbols(std::string_view bytes);

}  // namespace nibble
