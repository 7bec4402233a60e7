#include "quantize/recipe/recipe.h"

#include <gtest/gtest.h>

#include <fstream>

#include "core/testing.h"
#include "quantize/recipe/plan.h"

namespace nibble {
namespace {

Json json(std::string_view text) {
  auto value = parse_json(text, "test");
  EXPECT_TRUE(value) << value.error().message;
  return value ? *value : Json();
}

Spec tiny(std::string family = "llama") {
  Spec spec;
  spec.family = std::move(family);
  spec.hidden = spec.embedding = 256;
  spec.layers = 6;
  spec.heads = 8;
  spec.kv_heads = 4;
  spec.head_dim = 32;
  spec.ffn = 768;
  spec.vocabulary = 100;
  spec.max_positions = 512;
  spec.gated = spec.family != "opt" && spec.family != "falcon";
  return spec;
}

constexpr const char* kGood = R"({
  "name": "mine", "weights": "int4:row", "activations": "int8:token:asym",
  "steps": [{"id": "stats", "observe": {"statistics": ["absmax", "gram"]}},
            {"id": "keep", "split": {"columns": 8}},
            {"id": "solve", "gptq": {"order": "kept-last"}}],
  "except": [{"roles": ["down"], "weights": "int8:row", "set": {"keep": {"columns": "1/8"}}},
             {"blocks": "last:2", "set": {"solve": {"damp": 0.1}}}]
})";

Recipe good() {
  auto recipe = parse_recipe(json(kGood), "test");
  EXPECT_TRUE(recipe) << recipe.error().message;
  return *recipe;
}

TEST(Recipe, ShippedOnesParseAndFitEveryFamily) {
  EXPECT_EQ(shipped_recipes().size(), 42u);
  for (const ShippedRecipe& shipped : shipped_recipes()) {
    const auto recipe = load_recipe(std::string(shipped.name));
    ASSERT_TRUE(recipe) << recipe.error().message;
    EXPECT_EQ(recipe->name, shipped.name);
    EXPECT_TRUE(recipe->source.contains("paper")) << shipped.name;
    EXPECT_TRUE(recipe->source.contains("summary")) << shipped.name;
    for (const char* family : {"llama", "opt", "falcon", "mistral", "qwen2"})
      for (bool shared : {false, true}) {
        Spec spec = tiny(family);
        spec.parallel = spec.shared_norm = shared;
        const auto sites = plan_block(*recipe, spec, 0);
        ASSERT_TRUE(sites) << sites.error().message;
        EXPECT_EQ(sites->size(), shared ? 3u : 4u);
      }
  }
}

TEST(Recipe, CanonicalFormIsAFixedPoint) {
  for (const ShippedRecipe& shipped : shipped_recipes()) {
    const Recipe once = *load_recipe(std::string(shipped.name));
    EXPECT_EQ(dump_json(parse_recipe(once.source, "again")->source), dump_json(once.source));
  }
}

TEST(Recipe, DownProjectionsAndFalconAreExceptions) {
  const Recipe recipe = *load_recipe("quik-4b");
  const auto damp_of = [&](const Spec& spec) {
    return (*plan_block(recipe, spec, 0))[0].linears[0].steps[0].parameters["damp"].get<double>();
  };
  EXPECT_EQ(damp_of(tiny("llama")), 0.01);
  EXPECT_EQ(damp_of(tiny("falcon")), 0.5);
  for (const char* family : {"llama", "opt", "falcon"}) {
    const auto sites = *plan_block(recipe, tiny(family), 3);
    EXPECT_EQ(to_string(sites[0].linears[0].weights), "int4:row");
    EXPECT_EQ(to_string(sites[0].linears[0].activations), "int4:token:asym");
    EXPECT_EQ(to_string(sites[3].linears[0].weights), "int8:row");
    EXPECT_EQ(to_string(sites[3].linears[0].activations), "int8:token:asym");
    EXPECT_EQ(sites[3].name, "blocks.3.down");
    EXPECT_EQ(sites[3].inputs, 768);
  }
  const auto w4a8 = *plan_block(*load_recipe("quik-4b-w4a8-down"), tiny(), 0);
  EXPECT_EQ(to_string(w4a8[3].linears[0].weights), "int4:row");
  EXPECT_EQ(to_string(w4a8[3].linears[0].activations), "int8:token:asym");
}

TEST(Recipe, PatternIsChosenPerLinear) {
  const auto sites = *plan_block(*load_recipe("quik-4b-sparse24"), tiny(), 0);
  EXPECT_TRUE(sites[0].sparse24() && sites[1].sparse24());
  EXPECT_FALSE(sites[2].sparse24() || sites[3].sparse24());
}

// The kept columns of a site, chosen on made-up statistics.
int64_t kept_of(const SitePlan& plan, int64_t hidden, float loudest) {
  ThreadPool pool(1);
  SiteStatistics statistics;
  for (int64_t k = 0; k < plan.inputs; ++k)
    statistics.absmax.push_back(loudest * static_cast<float>(k + 1) / static_cast<float>(plan.inputs));
  SiteWork site;
  site.name = plan.name;
  site.inputs = plan.inputs;
  site.hidden = hidden;
  site.sparse24 = plan.sparse24();
  site.statistics = &statistics;
  for (const PlannedStep& step : plan.steps) EXPECT_TRUE(step.step->apply_to_site(site, pool));
  return static_cast<int64_t>(site.kept.size());
}

TEST(Recipe, KeepsASixteenthOrTwoHundredFiftySix) {
  Spec spec = tiny();
  const Recipe recipe = *load_recipe("quik-4b");
  auto sites = *plan_block(recipe, spec, 0);
  EXPECT_EQ(kept_of(sites[0], spec.hidden, 1), 16);
  EXPECT_EQ(kept_of(sites[3], spec.hidden, 1), 48);
  spec.hidden = spec.heads * (spec.head_dim = 1024);
  spec.ffn = 28672;
  sites = *plan_block(recipe, spec, 0);
  EXPECT_EQ(kept_of(sites[0], spec.hidden, 1), 256);
  EXPECT_EQ(kept_of(sites[3], spec.hidden, 1), 896);
}

TEST(Recipe, ThresholdKeepsNothingOfAQuietSite) {
  const std::vector<std::string> sets = {"keep.threshold=3"};
  const Recipe recipe = *customise(*load_recipe("quik-4b"), sets, {});
  const auto sites = *plan_block(recipe, tiny(), 0);
  EXPECT_EQ(kept_of(sites[0], 256, 3.0f), 0);
  EXPECT_EQ(kept_of(sites[0], 256, 3.5f), 16);
}

TEST(Recipe, KeptCountMakesFourDivideTheRestOfAPattern) {
  const std::vector<std::string> sets = {"keep.columns=10"};
  const Recipe recipe = *customise(*load_recipe("quik-4b-sparse24"), sets, {});
  const auto sites = *plan_block(recipe, tiny(), 0);
  EXPECT_EQ(kept_of(sites[0], 256, 1), 12);  // 256 - 12 is a multiple of 4
  EXPECT_EQ(kept_of(sites[2], 256, 1), 10);  // dense
}

TEST(Recipe, KeepingEverythingIsRefused) {
  ThreadPool pool(1);
  const std::vector<std::string> sets = {"keep.columns=256", "keep.at_most=null"};
  const auto sites = *plan_block(*customise(*load_recipe("quik-8b"), sets, {}), tiny(), 0);
  SiteStatistics statistics;
  statistics.absmax.assign(256, 1.0f);
  SiteWork site{"blocks.0.qkv", 256, 256, false, &statistics, {}, {}, Levels::f16, {}, 0};
  const Status status = sites[0].steps[1].step->apply_to_site(site, pool);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().message,
            "blocks.0.qkv: the recipe keeps 256 of 256 input columns; fewer must be kept than "
            "there are");
}

TEST(Recipe, ExceptionsGoByRoleAndBlock) {
  const Recipe recipe = good();
  const auto at = [&](int64_t block, size_t site) { return (*plan_block(recipe, tiny(), block))[site]; };
  EXPECT_EQ(to_string(at(0, 3).linears[0].weights), "int8:row");
  EXPECT_EQ(at(0, 3).steps[1].parameters["columns"], "1/8");
  EXPECT_EQ(at(0, 0).steps[1].parameters["columns"], 8);
  EXPECT_FALSE(at(3, 0).linears[0].steps[0].parameters.contains("damp"));
  EXPECT_EQ(at(4, 0).linears[0].steps[0].parameters["damp"], 0.1);
}

TEST(Recipe, OverridesGoByNameAndWin) {
  const std::vector<std::string> overrides = {R"(blocks\.[01]\.down=int4:row)", R"(blocks\.0\.down=f16)",
                                              R"(blocks\.2\.(q|k|v)=int8:row/int4:token)"};
  const auto recipe = customise(good(), {}, overrides);
  ASSERT_TRUE(recipe) << recipe.error().message;
  EXPECT_EQ(recipe->source["overrides"].size(), 3u);
  const auto down = [&](int64_t block) { return (*plan_block(*recipe, tiny(), block))[3].linears[0]; };
  EXPECT_EQ(to_string(down(0).weights), "f16");
  EXPECT_EQ(to_string(down(0).activations), "f32");
  EXPECT_FALSE(down(0).quantized());
  EXPECT_EQ(to_string(down(1).weights), "int4:row");
  EXPECT_EQ(to_string(down(2).weights), "int8:row");
  EXPECT_EQ(to_string((*plan_block(*recipe, tiny(), 2))[0].linears[1].activations), "int4:token");
  EXPECT_FALSE(customise(good(), {}, std::vector<std::string>{"(=int4:row"}));
  EXPECT_FALSE(customise(good(), {}, std::vector<std::string>{"int4:row"}));
  EXPECT_FALSE(customise(good(), {}, std::vector<std::string>{"x=int4:tensor"}));
  EXPECT_FALSE(customise(good(), {}, std::vector<std::string>{"x=f16/int8:token"}));
}

// Each would take a matcher that goes back and tries again longer than anyone waits.
TEST(Recipe, NoPatternTakesForever) {
  std::string nested = "q";
  while (nested.size() < 250) nested = "(" + nested + "+)+";
  for (const std::string& pattern :
       {std::string("(.*)*(.*)*(.*)*x"), std::string("((((.+)+)+)+)+x"), std::string("(.|..|...|.*)*x"), nested}) {
    const auto recipe = customise(good(), {}, std::vector<std::string>{pattern + "=int8:row"});
    ASSERT_TRUE(recipe) << recipe.error().message;
    const auto sites = plan_block(*recipe, tiny(), 0);
    ASSERT_TRUE(sites) << sites.error().message;
    EXPECT_EQ(to_string((*sites)[0].linears[0].weights), "int4:row");
  }
  for (const std::string& pattern : {std::string("((a{99}){99}){99}"), std::string("(?=q)q"), std::string("(?!q)k"),
                                     std::string("(q)\\1"), std::string(257, 'q')}) {
    const auto refused = customise(good(), {}, std::vector<std::string>{pattern + "=int8:row"});
    ASSERT_FALSE(refused) << pattern;
    EXPECT_EQ(refused.error().code, ErrorCode::usage) << pattern;
    EXPECT_NE(refused.error().message.find("support"), std::string::npos) << refused.error().message;
  }
}

TEST(Recipe, GroupsOfAPatternAreMultiplesOfFour) {
  const auto plan_with = [](const char* weights) {
    const std::vector<std::string> sets = {weights};
    return plan_block(*customise(*load_recipe("quik-4b-sparse24"), sets, {}), tiny(), 0);
  };
  EXPECT_TRUE(plan_with("weights=int4:g8"));
  const auto refused = plan_with("weights=int4:g6");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::usage);
  EXPECT_EQ(refused.error().message,
            "recipe quik-4b-sparse24, blocks.0.q: a 2:4 pattern with weights int4:g6: 4 must divide the size of the "
            "groups, so that no four columns have two scales");
}

// What cannot be loaded is not computed: 65,793 x 255 x 128 is the last below 2^31, with offsets 33,025 x 255 x 255.
TEST(Recipe, SumsOfIntegersMustFit) {
  Spec wide = tiny();
  const auto plan_with = [&](const std::vector<std::string>& sets) {
    return plan_block(*customise(*load_recipe("cmpq-a8"), sets, {}), wide, 2);
  };
  wide.ffn = 65793;
  EXPECT_TRUE(plan_with({}));
  wide.ffn = 65794;
  struct Case {
    const char* weights;
    int most;
    const char* instead;
  };
  for (const Case& c : {Case{"code:col", 65793, "or activations bf16"},
                        {"code3:col", 65793, "groups of so many, or activations bf16"},
                        {"code4:row", 65793, "groups of so many, or activations bf16"},
                        {"int8:row", 65793, "groups of so many, or activations f32"},
                        {"int8:row:asym", 33025, "groups of so many, or activations f32"}}) {
    const auto refused = plan_with({fmt::format("weights={}", c.weights)});
    ASSERT_FALSE(refused) << c.weights;
    EXPECT_EQ(refused.error().code, ErrorCode::usage);
    EXPECT_EQ(refused.error().message,
              fmt::format("recipe cmpq-a8, blocks.2.down: sums over 65794 of its 65794 inputs may exceed 32 bits with "
                          "weights {} and activations int8:token; expected {} inputs at most, {}",
                          c.weights, c.most, c.instead));
  }
  EXPECT_TRUE(plan_with({"weights=int8:g128"}));
  EXPECT_TRUE(plan_with({"activations=bf16"}));
  EXPECT_TRUE(plan_with({"weights=int8:row", "activations=f32"}));
  EXPECT_TRUE(plan_with({"weights=int8:row:asym", "activations=f32"}));
  wide.ffn = 33025;
  EXPECT_TRUE(plan_with({"weights=int8:row:asym"}));
  wide.ffn = 33026;
  EXPECT_FALSE(plan_with({"weights=int8:row:asym"}));
}

TEST(Recipe, FloatLinearsOfASiteDoNotConflict) {
  const std::vector<std::string> overrides = {R"(blocks\.0\.v=f16)"};
  const auto sites = plan_block(*customise(good(), {}, overrides), tiny(), 0);
  ASSERT_TRUE(sites);
  EXPECT_FALSE((*sites)[0].linears[2].quantized());
  EXPECT_TRUE((*sites)[0].linears[1].quantized());
}

TEST(Recipe, ConflictsWithinASiteNameTheRoles) {
  const std::vector<std::string> overrides = {R"(blocks\.1\.k=int8:row/int4:token)"};
  const auto activations = plan_block(*customise(good(), {}, overrides), tiny(), 1);
  ASSERT_FALSE(activations);
  EXPECT_EQ(activations.error().code, ErrorCode::usage);
  EXPECT_EQ(activations.error().message,
            "recipe mine: q and k of blocks.1.qkv read the same input, but the recipe gives them activations "
            "int8:token:asym and int4:token");
  Json source = good().source;
  source["except"].push_back(json(R"({"roles": ["up"], "set": {"keep": {"columns": 9}}})"));
  const auto steps = plan_block(*parse_recipe(source, "test"), tiny(), 0);
  ASSERT_FALSE(steps);
  EXPECT_EQ(steps.error().message,
            "recipe mine: gate and up of blocks.0.gate_up read the same input, but the recipe gives them other "
            "parameters of step keep");
}

TEST(Recipe, SetChangesParameters) {
  const std::vector<std::string> sets = {"solve.damp=0.2",        "solve.clip.steps=40", "keep.columns=\"1/4\"",
                                         "keep.by=absmax",        "weights=int3:g64",    "cache=f16",
                                         "solve.order=activation"};
  const auto recipe = customise(good(), sets, {});
  ASSERT_TRUE(recipe) << recipe.error().message;
  const Json& steps = recipe->source["steps"];
  EXPECT_EQ(steps[2]["gptq"]["damp"], 0.2);
  EXPECT_EQ(steps[2]["gptq"]["clip"]["steps"], 40);
  EXPECT_EQ(steps[2]["gptq"]["order"], "activation");
  EXPECT_EQ(steps[1]["split"]["columns"], "1/4");
  EXPECT_EQ(recipe->source["weights"], "int3:g64");
  EXPECT_EQ(recipe->source["cache"], "f16");
  const std::vector<std::string> attention = {"attention.k=bfp4", "attention.q=bfp6", "attention.q="};
  EXPECT_EQ(customise(*recipe, attention, {})->source["attention"], json(R"({"k": "bfp4:b16"})"));
  const std::vector<std::string> floats = {"attention.k=bfp4", "attention=null"};
  EXPECT_FALSE(customise(*recipe, floats, {})->source.contains("attention"));
  const std::vector<std::string> remove = {"solve.clip=null"};
  EXPECT_FALSE(customise(*recipe, remove, {})->source["steps"][2]["gptq"].contains("clip"));
  const std::vector<std::pair<const char*, const char*>> wrong = {
      {"solve.damp", "expected STEP.KEY=VALUE"},
      {"=1", "expected STEP.KEY=VALUE"},
      {"solve.=1", "expected STEP.KEY=VALUE"},
      {"solver.damp=1", "no step has the id \"solver\"; the recipe's steps are stats, keep, solve"},
      {"solve.dump=1", "unknown key \"dump\""},
      {"solve.damp=11", "\"damp\" is 11, expected a number from 0 to 10"},
      {"name=x", "weights=, activations= or cache="},
      {"attention.k=int8:token", "\"attention\": \"k\" cannot be \"int8:token\""},
      {"attention.o=bfp8", "\"attention\": unknown key \"o\""},
  };
  for (const auto& [text, message] : wrong) {
    const auto changed = customise(good(), std::vector<std::string>{text}, {});
    ASSERT_FALSE(changed) << text;
    EXPECT_NE(changed.error().message.find(message), std::string::npos) << changed.error().message;
    EXPECT_EQ(changed.error().code, ErrorCode::usage);
  }
}

TEST(Recipe, AttentionDiffersByBlockAndFamily) {
  Json source = good().source;
  source["cache"] = "bfp8:b16";
  source["attention"] = json(R"({"q": "bfp6", "k": "bfp6"})");
  source["except"].push_back(json(R"({"blocks": "last:1", "attention": {"k": "f32", "p": "bfp8"}})"));
  source["except"].push_back(json(R"({"families": ["opt"], "attention": {"q": "f32"}})"));
  const auto recipe = parse_recipe(source, "test");
  ASSERT_TRUE(recipe) << recipe.error().message;
  Spec spec = tiny();
  spec.layers = 2;
  const auto text = [&](int64_t block) { return dump_json(to_json(*attention_of_block(*recipe, spec, block))); };
  EXPECT_EQ(text(0), R"({"q":"bfp6:b16","k":"bfp6:b16","p":"f32","v":"bfp8:b16"})");
  EXPECT_EQ(text(1), R"({"q":"bfp6:b16","k":"f32","p":"bfp8:b16","v":"bfp8:b16"})");
  EXPECT_EQ(attention_of_recipe(*recipe, spec)->size(), 2u);
  spec.family = "opt";
  EXPECT_EQ(text(0), R"({"q":"f32","k":"bfp6:b16","p":"f32","v":"bfp8:b16"})");
  EXPECT_EQ(parse_recipe(recipe->source, "again")->source, recipe->source);
}

TEST(Recipe, FilesWorkLikeShippedOnes) {
  const std::string path = ::testing::TempDir() + "own_recipe.json";
  std::ofstream(path) << kGood;
  const auto recipe = load_recipe(path);
  ASSERT_TRUE(recipe) << recipe.error().message;
  EXPECT_EQ(recipe->name, "mine");
  std::ofstream(path) << "{";
  EXPECT_EQ(load_recipe(path).error().code, ErrorCode::usage);
  EXPECT_EQ(load_recipe("/nowhere/x.json").error().code, ErrorCode::io);
  const auto unknown = load_recipe("quik-5b");
  ASSERT_FALSE(unknown);
  EXPECT_NE(unknown.error().message.find("quik-4b, "), std::string::npos) << unknown.error().message;
}

TEST(Recipe, ModifiersAreAddedToNames) {
  const Recipe recipe = *load_recipe("mxfp4+gptq+hadamard+gather");
  EXPECT_EQ(recipe.name, "mxfp4+gptq+hadamard+gather");
  EXPECT_EQ(dump_json(recipe.source["steps"]),
            dump_json(json(R"([{"id": "gather", "gather": {}}, {"id": "stats", "observe": {"statistics": ["gram"]}},
                               {"id": "rotate", "hadamard": {}},
                               {"id": "solve", "gptq": {"order": "natural", "damp": 0.01, "block": 128,
                                                        "dead": "round"}}])")));
  EXPECT_EQ(recipe.model_steps.size(), 1u);
  EXPECT_EQ(dump_json(parse_recipe(recipe.source, "again")->source), dump_json(recipe.source));
  // What the solver was told stays, and so do exceptions that name it.
  const std::string path = ::testing::TempDir() + "a+b.json";
  std::ofstream(path) << R"({"name": "own", "weights": "bfp4:b16", "activations": "bfp4:b16",
      "steps": [{"id": "stats", "observe": {"statistics": ["squares"]}},
                {"id": "s", "round": {"clip": {"steps": 9, "norm": 2}}}],
      "except": [{"roles": ["down"], "set": {"s": {"clip": null}}}]})";
  const Recipe own = *load_recipe(path + "+gptq");
  EXPECT_EQ(own.source["steps"][1]["id"], "stats-2");  // beside one that has the modifier's own
  EXPECT_EQ(own.source["steps"][2]["gptq"]["clip"]["steps"], 9);
  EXPECT_EQ(own.source["steps"][2]["id"], "s");
  EXPECT_EQ(load_recipe(path)->name, "own");
  // Every recipe takes a rotation and an order, with a block of its own where its inputs have none.
  for (const ShippedRecipe& shipped : shipped_recipes()) {
    const auto turned = load_recipe(std::string(shipped.name) + "+hadamard+gather");
    ASSERT_TRUE(turned) << turned.error().message;
    const std::vector<std::string> block = {"rotate.block=64"};
    const auto plan = plan_block(*customise(*turned, block, {}), tiny(), 0);
    if (shipped.name.starts_with("cmpq")) {  // but for those of single channels
      testing::expect_error(plan, ErrorCode::usage, "step widths gives bits to channels, and step rotate mixes them");
    } else {
      EXPECT_TRUE(plan) << shipped.name;
    }
  }
  const std::pair<const char*, const char*> wrong[] = {
      {"mxfp4+hadamrd", "unknown modifier \"hadamrd\" of recipe mxfp4; there are gather, gptq, hadamard"},
      {"mxfp4+", "unknown modifier \"\""},
      {"mxfp5+gptq", "unknown recipe \"mxfp5\""},
      {"mxfp4+gptq+gptq", "the recipe solves by gptq already"},
      {"quik-4b+gptq", "the recipe solves by gptq already"},
      {"mxfp4+hadamard+hadamard", "the recipe has a step \"hadamard\" already"},
  };
  for (const auto& [name, message] : wrong) {
    const auto refused = load_recipe(name);
    ASSERT_FALSE(refused) << name;
    EXPECT_EQ(refused.error().code, ErrorCode::usage);
    EXPECT_NE(refused.error().message.find(message), std::string::npos) << refused.error().message;
  }
}

TEST(Recipe, RotationsMustFitTheirInputs) {
  const std::pair<const char*, const char*> wrong[] = {
      {"activations=bfp4:b12", "blocks of 12 cannot be rotated; give \"block\", a power of two"},
      {"activations=f32", "activations in f32 have no blocks to rotate"},
      {"activations=fixed8", "not known once it is rotated; give a fraction"},
      {"rotate.block=512", "blocks of 512 do not fit its 256 inputs"},
  };
  for (const auto& [set, message] : wrong) {
    std::vector<std::string> sets = {set};
    if (std::string_view(set) == "activations=fixed8") sets.emplace_back("rotate.block=16");
    const auto plan = plan_block(*customise(*load_recipe("bfp-w4a4+hadamard"), sets, {}), tiny(), 0);
    ASSERT_FALSE(plan) << set;
    EXPECT_EQ(plan.error().code, ErrorCode::usage);
    EXPECT_NE(plan.error().message.find(message), std::string::npos) << plan.error().message;
  }
  for (const char* block : {"rotate.block=24", "rotate.block=1", "rotate.block=131072"})
    EXPECT_FALSE(customise(*load_recipe("bfp-w4a4+hadamard"), std::vector<std::string>{block}, {}));
}

TEST(Recipe, ExamplesOfTheDocumentationParse) {
  const std::string page = testing::get(std::filesystem::path(NIBBLE_SOURCE_DIR) / "docs" / "recipes.md");
  const std::string fence = "```json\n";
  int examples = 0;
  for (size_t at = page.find(fence); at != std::string::npos; at = page.find(fence, at + 1)) {
    const size_t begin = at + fence.size();
    const auto recipe = parse_recipe(json(page.substr(begin, page.find("```", begin) - begin)), "docs/recipes.md");
    ASSERT_TRUE(recipe) << recipe.error().message;
    EXPECT_TRUE(plan_block(*recipe, tiny(), 0));
    ++examples;
  }
  EXPECT_EQ(examples, 2);
}

TEST(Recipe, EveryStepIsDocumented) {
  const std::string page = testing::get(std::filesystem::path(NIBBLE_SOURCE_DIR) / "docs" / "recipes.md");
  for (const StepRow& row : step_rows())
    EXPECT_NE(page.find(fmt::format("### {}\n", row.kind)), std::string::npos) << row.kind;
  for (const ShippedRecipe& shipped : shipped_modifiers())
    EXPECT_NE(page.find(fmt::format("| `+{}` |", shipped.name)), std::string::npos) << shipped.name;
  for (const ShippedRecipe& shipped : shipped_recipes())
    EXPECT_NE(page.find(fmt::format("| `{}` |", shipped.name)), std::string::npos) << shipped.name;
}

struct Wrong {
  const char* pointer;  // what is replaced in the good recipe, or "" for the whole
  const char* value;    // by what; "" removes
  const char* message;
};

TEST(Recipe, MistakesAreNamed) {
  const Wrong mistakes[] = {
      {"", "[]", "test: expected an object"},
      {"/name", "", "test: \"name\" is missing"},
      {"/name", "\"\"", "\"name\" is empty"},
      {"/name", "7", "\"name\" is 7, expected a string"},
      {"/weights", "", "\"weights\" is missing"},
      {"/activations", "", "\"activations\" is missing"},
      {"/weights", "\"int9:row\"", "\"int9\" are no known levels"},
      {"/weights", "\"int4:token\"", "weights share scales by row, col, gN or bN"},
      {"/weights", "\"f16\"", "weights in f16 are not multiplied with activations in int8:token:asym"},
      {"/activations", "\"int8:g128\"", "activations are f32, bf16, intN:token[:asym] or a block format"},
      {"/weights", "\"mxfp4:b32\"", "weights in mxfp4:b32 are not multiplied with activations in int8:token:asym"},
      {"/activations", "\"bfp4:b16:search\"", "or a block format whose scale needs no search"},
      {"/activations", "\"f16\"", "activations are f32, bf16, intN:token[:asym] or a block format"},
      {"/cache", "\"int8\"", "\"cache\": \"k\" cannot be \"int8\""},
      {"/attention", "{\"p\": \"fixed8:f7\"}",
       "test, \"attention\": \"p\" cannot be \"fixed8:f7\": it cannot represent 1"},
      {"/attention", "{\"v\": \"bfp4:b48\"}", "must divide a page of 64"},
      {"/except/0", "{\"roles\": [\"q\"], \"attention\": {\"k\": \"bfp4\"}}", "belongs to whole blocks"},
      {"/wieghts", "\"int4:row\"", "unknown key \"wieghts\""},
      {"/steps", "{}", "\"steps\" must be a list"},
      {"/steps", "[]", "no step solves"},
      {"/steps/0", "{\"rotate\": {}}",
       "test, steps[0]: unknown step \"rotate\"; there are gather, observe, split, allocate, hadamard, apportion, "
       "sparse, kmeans, binary, bell, round, gptq"},
      {"/steps/0", "{\"id\": \"x\"}", "names no step"},
      {"/steps/0", "{\"observe\": {\"statistics\": []}, \"split\": {}}", "a step does one thing"},
      {"/steps/0", "{\"observe\": {\"statistics\": [\"mean\"]}}", "unknown statistic \"mean\""},
      {"/steps/0", "{\"observe\": {\"statistics\": \"gram\"}}", "expected a list of strings"},
      {"/steps/0", "{\"observe\": {\"statistics\": [\"gram\"]}}", "step keep (split) needs the statistic \"absmax\""},
      {"/steps/0", "{\"observe\": {\"statistics\": [\"absmax\"]}}", "step solve (gptq) needs the statistic \"gram\""},
      {"/steps/0", "{\"observe\": {\"statistics\": []}}", "needs the statistic \"absmax\""},
      {"/steps/0/id", "\"solve\"", "two steps have the id \"solve\""},
      {"/steps/0/id", "\"a.b\"", "expected a name without '.' and '='"},
      {"/steps/0", "{\"id\": \"first\", \"round\": {}}", "step keep works on sites and must come before step first"},
      {"/steps/3", "{\"round\": {}}", "steps solve and round both solve"},
      {"/steps/1/split/by", "\"gram\"", "\"by\" is \"gram\"; supported is \"absmax\""},
      {"/steps/1/split/as", "\"f32\"", "\"as\" is \"f32\"; supported are"},
      {"/steps/1/split/columns", "\"2/1\"", "a fraction below 1"},
      {"/steps/1/split/columns", "-1", "\"columns\" is -1"},
      {"/steps/1/split/columns", "", "\"columns\" is missing"},
      {"/steps/1/split/scale_with", "\"depth\"", "supported is \"width\""},
      {"/steps/2/gptq/order", "\"random\"", "\"order\" is \"random\"; there are natural, kept-last and activation"},
      {"/steps/2/gptq/damp", "-0.5", "\"damp\" is -0.5, expected a number from 0 to 10"},
      {"/steps/2/gptq/block", "0", "\"block\" is 0"},
      {"/steps/2/gptq/dead", "\"keep\"", "\"dead\" is \"keep\"; there are zero and round"},
      {"/steps/2/gptq/clip", "{\"step\": 80}", "unknown key \"step\""},
      {"/steps/2/gptq/pattern", "\"1:4\"", "supported is \"2:4\""},
      {"/steps/2/gptq", "{\"pattern\": \"2:4\", \"block\": 6}", "needs a multiple of 4"},
      {"/steps/2/gptq/percdamp", "1", "test, steps[2], step solve: unknown key \"percdamp\""},
      {"/except", "{}", "\"except\" must be a list"},
      {"/except/0/roles", "[\"fc1\"]", "unknown role \"fc1\""},
      {"/except/0/families", "[\"bloom\"]", "unknown family \"bloom\"; there are llama"},
      {"/except/0/blocks", "\"middle:3\"", "\"first:N\" or \"last:N\""},
      {"/except/0/blocks", "[-1]", "expected a list of block numbers"},
      {"/except/0/weight", "\"int8:row\"", "test, except[0]: unknown key \"weight\""},
      {"/except/0/set/kept", "{}", "\"set\" names the step \"kept\"; the recipe's steps are stats, keep, solve"},
      {"/steps/1", "{\"gather\": {}}", "step gather works on the model and must come before step stats"},
      {"/steps/1", "{\"hadamard\": {\"block\": 3}}", "\"block\" is 3; expected a power of two"},
      {"/except/0/set/keep/count", "3", "test, except[0], step keep: unknown key \"count\""},
      {"/except/0/set/keep", "3", "must be an object of parameters"},
      {"/except/1", "{\"roles\": [\"q\"]}", "test, except[1]: changes nothing"},
      {"/overrides", "[{\"weights\": \"int8:row\"}]", "test, overrides[0]: \"linears\" is missing"},
      {"/overrides", "[{\"linears\": \"[\", \"weights\": \"int8:row\"}]", "is not a regular expression"},
      {"/overrides", "[{\"linears\": \"q\"}]", "changes nothing"},
  };
  for (const Wrong& wrong : mistakes) {
    Json source = json(kGood);
    const Json::json_pointer pointer(wrong.pointer);
    if (*wrong.value != 0) {
      source[pointer] = json(wrong.value);
    } else {
      source[pointer.parent_pointer()].erase(pointer.back());
    }
    const auto recipe = parse_recipe(source, "test");
    ASSERT_FALSE(recipe) << wrong.pointer << " " << wrong.value;
    EXPECT_EQ(recipe.error().code, ErrorCode::usage) << wrong.pointer;
    EXPECT_NE(recipe.error().message.find(wrong.message), std::string::npos)
        << wrong.pointer << " " << wrong.value << ": " << recipe.error().message;
  }
}

}  // namespace
}  // namespace nibble
