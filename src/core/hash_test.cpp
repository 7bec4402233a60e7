#include "core/hash.h"

#include "core/testing.h"

namespace nibble {
namespace {

// FIPS 180-4 and NIST examples.
TEST(Sha256, PublishedVectors) {
  EXPECT_EQ(sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(sha256(std::string(1'000'000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, PiecesEqualTheWhole) {
  const std::string text(1000, 'q');
  Sha256 pieces;
  for (size_t i = 0; i < text.size(); i += 37) pieces.add(std::string_view(text).substr(i, 37));
  EXPECT_EQ(pieces.finish(), sha256(text));
}

TEST(Sha256, FilesOfSeveralChunks) {
  testing::TemporaryFolder folder;
  std::string text((size_t{16} << 20) + 12345, 'z');
  text[size_t{16} << 20] = 'y';
  testing::put(folder / "large", text);
  EXPECT_EQ(sha256_file(folder / "large").value(), sha256(text));
  testing::put(folder / "empty", "");
  EXPECT_EQ(sha256_file(folder / "empty").value(), sha256(""));
  testing::expect_error(sha256_file(folder / "absent"), ErrorCode::io, "absent");
}

// As `xxhsum -H3` prints them.
TEST(Xxh3, KnownValues) {
  const auto of = [](std::string_view text) { return xxh3(std::as_bytes(std::span(text))); };
  EXPECT_EQ(of(""), 0x2d06800538d394c2u);
  EXPECT_EQ(of("abc"), 0x78af5f94892f3950u);
}

}  // namespace
}  // namespace nibble
