// Tables over positions: the angles of rotary embeddings and the biases of ALiBi. Computed in float64, stored in
// float32, grown as sequences get longer; an entry depends on its position only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/spec.h"

namespace nibble {

// Rotary frequencies of the pairs (i, i + head_dim/2), radians per position: theta^(-2i/head_dim), then scaled.
//   linear:  divided by `factor`
//   llama3:  wavelengths longer than original/low are divided by `factor`, those shorter than original/high are left
//            alone, and between the two the frequency is interpolated linearly in original/wavelength
std::vector<double> rope_frequencies(const Rope& rope, int64_t head_dim);

// Slopes of ALiBi (arXiv 2108.12409): with n the greatest power of two <= heads, 2^(-8/n), 2^(-16/n), ... and, for the
// heads beyond n, every other slope of the series for 2n. Rounded to bfloat16, as Falcon was trained.
std::vector<float> alibi_slopes(int64_t heads);

class PositionTables {
 public:
  // Entries for positions 0 .. positions - 1 of a model with this Spec, and a few more. What is there already stays,
  // bit for bit: a longer table costs its new entries only, so that a sequence that grows token by token waits for a
  // few at a time.
  void reserve(const Spec& spec, int64_t positions);

  const float* cosines() const { return cosines_.data(); }  // [positions][head_dim / 2]
  const float* sines() const { return sines_.data(); }
  // What is added to the scores of a query head, by key position; nullptr without ALiBi. Slope times position is
  // computed in bfloat16 (that is what the models saw) before it is multiplied by Spec::alibi_scale.
  const float* bias(int64_t head) const { return biases_.empty() ? nullptr : biases_.data() + head * room_; }

 private:
  struct Key {  // what the entries depend on
    Positions kind = Positions::none;
    Rope rope;
    int64_t head_dim = 0, heads = 0;
    double alibi_scale = 1;
    bool operator==(const Key&) const = default;
  };
  void make_room(int64_t room);
  void add_angles(int64_t begin, int64_t end);
  void add_biases(int64_t begin, int64_t end);

  Key key_;
  int64_t positions_ = 0, room_ = 0;  // that are filled, that fit
  std::vector<double> frequencies_;   // of rotary embeddings
  std::vector<float> slopes_;         // of ALiBi
  std::vector<float> cosines_, sines_;
  std::vector<float> biases_;  // [heads][room]
};

}  // namespace nibble
