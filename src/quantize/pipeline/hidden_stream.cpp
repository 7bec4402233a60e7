#include "quantize/pipeline/hidden_stream.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>

#include "core/file.h"

namespace nibble {

HiddenStream::HiddenStream(std::filesystem::path folder, std::string name, const Spec& spec, const Samples& samples,
                           int64_t chunk, Isa isa)
    : folder_(std::move(folder)),
      name_(std::move(name)),
      spec_(spec),
      samples_(&samples),
      chunk_(std::clamp<int64_t>(chunk, 1, samples.count)),
      isa_(isa) {
  spec_.layers = 1;
}

std::filesystem::path HiddenStream::path(int64_t index) const {
  return folder_ / fmt::format("{}.{}.f32", name_, index);
}

template <class Work>
Status HiddenStream::for_chunks(const Work& work, const AttentionFormats& attention) {
  const AttentionPlans plans = plan_attention(spec_, {&attention, 1});
  sequences_.clear();
  for (int64_t first = 0; first < samples_->count; first += chunk_) {
    const int64_t count = std::min(chunk_, samples_->count - first);
    std::vector<Segment> segments;
    while (static_cast<int64_t>(sequences_.size()) < count) sequences_.emplace_back(spec_, plans);
    for (int64_t i = 0; i < count; ++i) {
      sequences_[static_cast<size_t>(i)].clear();
      segments.push_back({&sequences_[static_cast<size_t>(i)], samples_->length, 0});
    }
    NIBBLE_DO(work(first, count, segments));
  }
  return {};
}

Status HiddenStream::embed(const Embedder& embedder, ThreadPool& pool) {
  NIBBLE_TRY(DurableFile file, DurableFile::create(path(0)));
  AlignedBuffer<float> hidden(chunk_ * samples_->length * spec_.hidden);
  const Status embedded = for_chunks([&](int64_t first, int64_t count, std::span<const Segment> segments) -> Status {
    const auto tokens =
        std::span(samples_->tokens)
            .subspan(static_cast<size_t>(first * samples_->length), static_cast<size_t>(count * samples_->length));
    NIBBLE_DO(embedder.embed(tokens, segments, hidden.data(), workspace_, pool));
    return file.write(
        std::as_bytes(std::span(hidden.data(), static_cast<size_t>(count * samples_->length * spec_.hidden))));
  });
  NIBBLE_DO(embedded);
  return file.commit();
}

namespace {

// A file that a crash may take. Written to its name at once.
class ScratchFile {
 public:
  static Result<ScratchFile> create(const std::filesystem::path& path) {
    std::FILE* const file = std::fopen(path.c_str(), "wbe");
    if (file == nullptr) return system_failure(errno, "create", path);
    std::setvbuf(file, nullptr, _IONBF, 0);
    return ScratchFile(path, file);
  }

  Status write(std::span<const std::byte> bytes) {
    if (std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) == bytes.size()) return {};
    return system_failure(errno, "write", path_);
  }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  ScratchFile(std::filesystem::path path, std::FILE* file) : path_(std::move(path)), file_(file) {}

  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Close> file_;
};

}  // namespace

// A part of a block's state that has a file of its own.
struct HiddenStream::Part {
  unsigned part;
  const char* name;
};

const HiddenStream::Part HiddenStream::kParts[] = {
    {kHiddenPart, "hidden"}, {kMixedPart, "mixed"}, {kActivatedPart, "activated"}, {kAttentionPart, "attention"}};

// The files of a pass: what is read and what is written, chunk by chunk.
class HiddenStream::Files {
 public:
  explicit Files(HiddenStream& stream) : stream_(stream) {}

  Status open(int64_t index, unsigned parts) {
    for (const Part& part : kParts) {
      if ((parts & part.part) == 0) continue;
      const std::filesystem::path path = stream_.current(index, part);
      NIBBLE_TRY(MappedFile file, MappedFile::open(path));
      const int64_t expected = stream_.tokens() * stream_.width(part.part) * static_cast<int64_t>(sizeof(float));
      if (static_cast<int64_t>(file.bytes().size()) != expected)
        return fail(ErrorCode::corrupt, "{} has {} bytes, expected {}", path.string(), file.bytes().size(), expected);
      inputs_.push_back({part.part, std::move(file)});
    }
    return {};
  }

  Status create(unsigned part, const std::filesystem::path& path) {
    NIBBLE_TRY(ScratchFile file, ScratchFile::create(path));
    scratch_.push_back({part, std::move(file)});
    return {};
  }

  Status create_states(int64_t index) {
    NIBBLE_TRY(DurableFile file, DurableFile::create(stream_.path(index)));
    states_.emplace(std::move(file));
    return {};
  }

  void load(int64_t first, int64_t count) const {
    for (const auto& [part, file] : inputs_) {
      const auto bytes = file.bytes().subspan(at(part, first), at(part, count));
      std::memcpy(stream_.buffer(part), bytes.data(), bytes.size());
      file.release(bytes);
    }
  }

  Status save(int64_t count) {
    for (auto& [part, file] : scratch_) NIBBLE_DO(file.write(bytes_of(part, count)));
    return states_ ? states_->write(bytes_of(kHiddenPart, count)) : Status();
  }

  Status commit() { return states_ ? states_->commit() : Status(); }

 private:
  std::span<const std::byte> bytes_of(unsigned part, int64_t samples) const {
    return std::as_bytes(std::span(stream_.buffer(part), at(part, samples) / sizeof(float)));
  }

  size_t at(unsigned part, int64_t samples) const {
    return static_cast<size_t>(samples * stream_.samples_->length * stream_.width(part)) * sizeof(float);
  }

  HiddenStream& stream_;
  std::vector<std::pair<unsigned, MappedFile>> inputs_;
  std::vector<std::pair<unsigned, ScratchFile>> scratch_;
  std::optional<DurableFile> states_;  // before the next block
};

int64_t HiddenStream::width(unsigned part) const {
  if (part == kMixedPart) return spec_.heads * spec_.head_dim;
  return part == kActivatedPart ? spec_.ffn : spec_.hidden;
}

float* HiddenStream::buffer(unsigned part) {
  AlignedBuffer<float>* const buffers[] = {&workspace_.hidden, &workspace_.mixed, &workspace_.up,
                                           &workspace_.attention};
  AlignedBuffer<float>& buffer = *buffers[part == kHiddenPart      ? 0
                                          : part == kMixedPart     ? 1
                                          : part == kActivatedPart ? 2
                                                                   : 3];
  buffer.reserve(chunk_ * samples_->length * width(part));
  return buffer.data();
}

std::filesystem::path HiddenStream::path(int64_t index, const char* part) const {
  return folder_ / fmt::format("{}.{}.{}.f32", name_, index, part);
}

std::filesystem::path HiddenStream::current(int64_t index, const Part& part) const {
  return part.part == kHiddenPart && !inside_ ? path(index) : path(index, part.name);
}

void HiddenStream::remove_parts(int64_t index, unsigned parts) const {
  std::error_code ignored;
  for (const Part& part : kParts)
    if (parts & part.part) std::filesystem::remove(path(index, part.name), ignored);
}

Status HiddenStream::reach(int64_t index, const PackedBlock& block, size_t site, const SampleTap* tap, ThreadPool& pool,
                           const ProjectionTap* projected) {
  const size_t sites = sites_of(spec_).size();
  const StageParts ran = site > 0 ? parts_of_stage(spec_, site - 1) : StageParts{};
  const unsigned looked_at = site < sites && tap != nullptr ? parts_of_stage(spec_, site).input : 0;
  const bool projects = projected != nullptr && site > 0 && sites_of(spec_)[site - 1].roles[0] == Role::q;
  if (site == 0) inside_ = false;  // whatever an earlier attempt at the block left
  Files files(*this);
  NIBBLE_DO(files.open(index, ran.input | ran.reads | (looked_at & ~ran.writes)));
  if (site == sites) {
    NIBBLE_DO(files.create_states(index + 1));
  } else {
    for (const Part& part : kParts)
      if (ran.writes & part.part) NIBBLE_DO(files.create(part.part, path(index, part.name)));
  }
  const Status passed = for_chunks([&](int64_t first, int64_t count, std::span<const Segment> segments) -> Status {
    files.load(first, count);
    float* const hidden = buffer(kHiddenPart);
    if (site > 0) forward_stage(spec_, block, site - 1, 0, segments, hidden, isa_, workspace_, pool);
    if (projects) (*projected)(projections_of(spec_, workspace_), workspace_.positions, count, samples_->length);
    NIBBLE_DO(files.save(count));
    if (looked_at == 0) return {};
    const float* const x = stage_input(spec_, block, site, hidden, count * samples_->length, isa_, workspace_, pool);
    const int64_t wide = block[sites_of(spec_)[site].roles[0]].inputs();
    for (int64_t i = 0; i < count; ++i) (*tap)(x + i * samples_->length * wide, samples_->length, wide);
    return {};
  });
  NIBBLE_DO(passed);
  NIBBLE_DO(files.commit());
  workspace_ = Workspace();  // the stages need different buffers, and the solvers the room
  sequences_.clear();
  if (site == sites) {
    inside_ = false;
    remove_parts(index, ~0u);
    return {};
  }
  inside_ = inside_ || (ran.writes & kHiddenPart) != 0;
  if (site > 0 && ran.input != kHiddenPart) remove_parts(index, ran.input);
  return {};
}

Status HiddenStream::advance(int64_t index, const PackedBlock& block, const AttentionFormats& attention,
                             ThreadPool& pool) {
  inside_ = false;
  Files files(*this);
  NIBBLE_DO(files.open(index, kHiddenPart));
  NIBBLE_DO(files.create_states(index + 1));
  const Status ran = for_chunks(
      [&](int64_t first, int64_t count, std::span<const Segment> segments) -> Status {
        files.load(first, count);
        forward_block(spec_, block, 0, segments, buffer(kHiddenPart), isa_, workspace_, pool);
        return files.save(count);
      },
      attention);
  NIBBLE_DO(ran);
  return files.commit();
}

Result<std::vector<float>> HiddenStream::read(int64_t index) const {
  NIBBLE_TRY(const MappedFile states, MappedFile::open(path(index)));
  std::vector<float> out(states.bytes().size() / sizeof(float));
  std::memcpy(out.data(), states.bytes().data(), out.size() * sizeof(float));
  return out;
}

void HiddenStream::remove(int64_t index) const {
  std::error_code ignored;
  std::filesystem::remove(path(index), ignored);
}

}  // namespace nibble
