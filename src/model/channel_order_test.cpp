// That an order leaves the model's function as it is, is shown where models run: runtime/model_test.cpp.
#include "model/channel_order.h"

#include <gtest/gtest.h>

#include "checkpoint/safetensors.h"
#include "core/testing.h"

namespace nibble {
namespace {

Spec small() {
  Spec spec;
  spec.hidden = 4;
  spec.layers = 2;
  spec.heads = 2;
  spec.kv_heads = 2;
  spec.head_dim = 2;
  spec.ffn = 3;
  return spec;
}

const ChannelOrder kOrder{{2, 0, 3, 1}, {{{0, 2, 1}, {1, 0, 2, 3}}, {{2, 1, 0}, {0, 1, 3, 2}}}};

TEST(ChannelOrder, ComesBackFromItsFile) {
  testing::TemporaryFolder folder;
  EXPECT_TRUE(read_order(folder.path(), small())->empty());
  ASSERT_TRUE(write_order(folder.path(), kOrder));
  const auto read = read_order(folder.path(), small());
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->residual, kOrder.residual);
  EXPECT_EQ(read->blocks[1].mlp, kOrder.blocks[1].mlp);
  EXPECT_EQ(read->blocks[0].values, kOrder.blocks[0].values);
  EXPECT_EQ(inverse(*read).residual, (std::vector<int32_t>{1, 3, 0, 2}));
}

TEST(ChannelOrder, OthersAreRefused) {
  const auto spoilt = [](auto change) {
    ChannelOrder order = kOrder;
    change(order);
    return order;
  };
  const std::pair<ChannelOrder, const char*> rows[] = {
      {spoilt([](ChannelOrder& o) { o.residual[0] = 1; }), "\"residual\" is no order of 4"},
      {spoilt([](ChannelOrder& o) { o.residual[2] = 4; }), "\"residual\" is no order of 4"},
      {spoilt([](ChannelOrder& o) { o.residual[2] = -1; }), "\"residual\" is no order of 4"},
      {spoilt([](ChannelOrder& o) { o.residual.pop_back(); }), "\"residual\" is no order of 4"},
      {spoilt([](ChannelOrder& o) { o.blocks[1].mlp.push_back(3); }), "\"blocks.1.mlp\" is no order of 3"},
      {spoilt([](ChannelOrder& o) {
         o.blocks[0].values = {2, 3, 0, 1};
       }),
       "channel 2 to another head"},
  };
  for (const auto& [order, message] : rows) {
    testing::TemporaryFolder folder;
    ASSERT_TRUE(write_order(folder.path(), order));
    testing::expect_error(read_order(folder.path(), small()), ErrorCode::corrupt, message);
  }
  testing::TemporaryFolder folder;
  const float value = 1;
  const TensorView floats{"residual", DType::f32, {1}, std::as_bytes(std::span(&value, 1))};
  ASSERT_TRUE(write_safetensors(folder / kOrderName, {floats}));
  testing::expect_error(read_order(folder.path(), small()), ErrorCode::corrupt, "has 1 tensors, of which 0");
  Spec deeper = small();
  deeper.layers = 1;
  testing::TemporaryFolder deep;
  ASSERT_TRUE(write_order(deep.path(), kOrder));
  testing::expect_error(read_order(deep.path(), deeper), ErrorCode::corrupt, "has 5 tensors, of which 3");
}

}  // namespace
}  // namespace nibble
