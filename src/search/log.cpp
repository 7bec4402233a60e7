#include "search/log.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <utility>

#include "core/file.h"
#include "core/hash.h"

namespace nibble::search {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kBeginning = "{\"nibble_search\":";
constexpr size_t kIdLength = 16;
constexpr size_t kCountedWidths = 8;
constexpr uint64_t kMostChannels = uint64_t{1} << 32;

std::string single_key(const std::string& base, const std::string& variable, const std::string& format) {
  return base + "\n" + variable + "\n" + format;
}

Json names_of(const std::vector<NumberFormat>& formats) {
  Json out = Json::array();
  for (const NumberFormat& format : formats) out.push_back(to_string(format));
  return out;
}

Json content_of(const Space& space) {
  Json out = Json::object();
  out["weights"] = Json::array();
  for (size_t k = 0; k < space.palette.weights.size(); ++k) out["weights"].push_back(space.palette.name(k));
  out["activations"] = names_of(space.palette.activations);
  if (space.chooses_attention()) out["attention"] = names_of(space.palette.attention);
  // What is not chosen but measured with every choice.
  if (std::any_of(space.attention.begin(), space.attention.end(),
                  [](const AttentionFormats& formats) { return formats != AttentionFormats(); })) {
    out["computed"] = Json::array();
    for (const AttentionFormats& formats : space.attention) out["computed"].push_back(to_json(formats));
  }
  out["variables"] = Json::array();
  for (const Variable& variable : space.variables) out["variables"].push_back(variable.name);
  return out;
}

Result<Fidelity> fidelity_of(JsonReader& reader) {
  Fidelity out;
  NIBBLE_TRY(out.kl, reader.number("kl", 0, kBroken));
  NIBBLE_TRY(out.nll, reader.number("nll", 0, kBroken));
  return out;
}

Result<ChannelCounts> counts_of(const Json& list, const std::string& where) {
  ChannelCounts out;
  for (const Json& value : list) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() > kMostChannels)
      return fail(ErrorCode::corrupt, "{}: \"channels\" holds {}", where, dump_json(value));
    out.push_back(value.get<int64_t>());
  }
  if (out.size() != kCountedWidths)
    return fail(ErrorCode::corrupt, "{}: \"channels\" has {} numbers; expected {}", where, out.size(), kCountedWidths);
  return out;
}

Result<Choice> choice_of(JsonReader& reader) {
  Choice out;
  const Json* list = reader.find("choice");
  if (list == nullptr || !list->is_array())
    return fail(ErrorCode::corrupt, "{}: \"choice\" is not a list", reader.where());
  for (const Json& value : *list) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() > 255)
      return fail(ErrorCode::corrupt, "{}: \"choice\" holds {}", reader.where(), dump_json(value));
    out.push_back(value.get<int>());
  }
  return out;
}

// Choices that do not belong to the space they name would lead out of its arrays.
bool belongs(const Choice& choice, const Space& space) {
  if (choice.size() != space.variables.size()) return false;
  for (size_t i = 0; i < choice.size(); ++i)
    if (static_cast<size_t>(choice[i]) >= space.candidates(space.variables[i]).size()) return false;
  return true;
}

}  // namespace

std::string id_of(const Space& space) { return sha256(dump_json(content_of(space))).substr(0, kIdLength); }

Log::Log(Log&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      space_(std::move(other.space_)),
      singles_(std::move(other.singles_)),
      channels_(std::move(other.channels_)),
      trials_(std::move(other.trials_)) {}

Log::~Log() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Status Log::check(const fs::path& path, bool resume, bool force) {
  std::error_code ignored;
  if (path.empty()) return {};
  NIBBLE_DO(check_file_target(path));
  if (resume || !fs::exists(path, ignored)) return {};
  if (!force)
    return fail(ErrorCode::usage, "{} exists; --resume goes on with it, --force begins anew, --log names another file",
                path.string());
  if (!begins_with(path, kBeginning))
    return fail(ErrorCode::usage, "{} exists and is no log of a search: it is not replaced", path.string());
  return {};
}

// A first line that an interruption left unfinished: there is nothing in the log yet.
Result<bool> holds_nothing(const fs::path& path) {
  NIBBLE_TRY(const std::string text, read_text(path));
  return text.find('\n') == std::string::npos && (text.starts_with(kBeginning) || kBeginning.starts_with(text));
}

Result<Log> Log::open(const fs::path& path, const Json& header, bool resume, bool force) {
  NIBBLE_DO(check(path, resume, force));
  Log log;
  log.path_ = path;
  if (path.empty()) return log;
  bool anew = !resume || !fs::exists(path);
  if (!anew) {
    NIBBLE_TRY(anew, holds_nothing(path));
  }
  if (!anew) NIBBLE_DO(log.read(header));
  log.descriptor_ = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | (anew ? O_TRUNC : 0), 0666);
  if (log.descriptor_ < 0) return system_failure(errno, "open", path);
  if (anew) NIBBLE_DO(log.write(header));
  return log;
}

Status Log::read(const Json& header) {
  NIBBLE_TRY(const std::string text, read_text(path_));
  if (!text.starts_with(kBeginning)) return fail(ErrorCode::corrupt, "{} is no log of a search", path_.string());
  size_t begin = 0, number = 0;
  for (size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const std::string where = fmt::format("{}, line {}", path_.string(), ++number);
    NIBBLE_TRY(const Json line, parse_json(std::string_view(text).substr(begin, end - begin), where));
    if (number > 1) {
      NIBBLE_DO(take(line, where));
      continue;
    }
    for (const auto& item : header.items())
      if (const Json* found = find_path(line, {item.key()}); found == nullptr || *found != item.value())
        return fail(ErrorCode::corrupt, "{} was made with another model, text or rounding: \"{}\" is {}, now {}",
                    path_.string(), item.key(), found == nullptr ? "missing" : dump_json(*found),
                    dump_json(item.value()));
  }
  if (begin == text.size()) return {};
  // What an interruption left of a line.
  std::error_code error;
  fs::resize_file(path_, begin, error);
  if (error) return fail(ErrorCode::io, "cannot shorten {}: {}", path_.string(), error.message());
  return {};
}

Status Log::take(const Json& line, const std::string& where) {
  NIBBLE_TRY(JsonReader reader, JsonReader::open(line, where));
  if (reader.has("single")) {
    NIBBLE_TRY(const std::string variable, reader.string("single"));
    NIBBLE_TRY(const std::string format, reader.string("format"));
    NIBBLE_TRY(const std::string base, reader.string("base"));
    NIBBLE_TRY(singles_[single_key(base, variable, format)], fidelity_of(reader));
    if (const Json* channels = reader.find("channels"); channels != nullptr) {
      NIBBLE_TRY(channels_[single_key(base, variable, format)], counts_of(*channels, where));
    }
  } else if (reader.has("trial")) {
    LoggedTrial trial;
    NIBBLE_TRY(const std::string space, reader.string("space"));
    NIBBLE_TRY(trial.study, reader.string("study"));
    NIBBLE_TRY(trial.choice, choice_of(reader));
    NIBBLE_TRY(trial.measured, fidelity_of(reader));
    trials_[space].push_back(std::move(trial));
  } else if (!reader.has("space")) {
    return fail(ErrorCode::corrupt, "{}: neither a single, a trial nor a space", where);
  }
  return {};
}

Status Log::write(const Json& line) {
  if (descriptor_ < 0) return {};
  const std::string text = dump_json(line) + "\n";
  for (size_t done = 0; done < text.size();) {
    const ssize_t written = ::write(descriptor_, text.data() + done, text.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return system_failure(errno, "write", path_);
    done += static_cast<size_t>(written);
  }
  return {};
}

Status Log::enter(const Space& space) {
  space_ = id_of(space);
  const bool known = trials_.contains(space_);
  for (const LoggedTrial& trial : trials_[space_])
    if (!belongs(trial.choice, space))
      return fail(ErrorCode::corrupt, "{}: a trial of space {} does not fit its variables", path_.string(), space_);
  if (known) return {};
  Json line = Json::object();
  line["space"] = space_;
  line.update(content_of(space));
  return write(line);
}

std::optional<Fidelity> Log::single(const std::string& base, const std::string& variable,
                                    const std::string& format) const {
  const auto found = singles_.find(single_key(base, variable, format));
  return found == singles_.end() ? std::nullopt : std::optional(found->second);
}

Status Log::add_single(const std::string& base, const std::string& variable, const std::string& format,
                       const Fidelity& measured, const ChannelCounts& channels) {
  singles_[single_key(base, variable, format)] = measured;
  if (!channels.empty()) channels_[single_key(base, variable, format)] = channels;
  Json line = Json::object();
  line["single"] = variable;
  line["format"] = format;
  line["base"] = base;
  line["kl"] = measured.kl;
  line["nll"] = measured.nll;
  if (!channels.empty()) line["channels"] = channels;
  return write(line);
}

ChannelCounts Log::channels(const std::string& base, const std::string& variable, const std::string& format) const {
  const auto found = channels_.find(single_key(base, variable, format));
  return found == channels_.end() ? ChannelCounts() : found->second;
}

std::optional<Fidelity> Log::trial(const Choice& choice) const {
  for (const LoggedTrial& known : trials())
    if (known.choice == choice) return known.measured;
  return std::nullopt;
}

Status Log::add_trial(const LoggedTrial& trial, double bits) {
  trials_[space_].push_back(trial);
  Json line = Json::object();
  line["trial"] = trials_[space_].size();
  line["space"] = space_;
  line["study"] = trial.study;
  line["choice"] = trial.choice;
  line["bits"] = bits;
  line["kl"] = trial.measured.kl;
  line["nll"] = trial.measured.nll;
  return write(line);
}

}  // namespace nibble::search
