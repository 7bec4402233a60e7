// Preloaded into the program by cli_test: makes its writes fail or its process die at a chosen point.
//
//   NIBBLE_TEST_KILL_AT=N     the N-th call that changes the file system (from 1) kills the process; a write does half
//                             of its work first
//   NIBBLE_TEST_DISK_BYTES=N  after N written bytes the disk is full
//   NIBBLE_TEST_FREE_BYTES=N  that many bytes are free on every disk
//   NIBBLE_TEST_COUNT=FILE    at the end, the number of such calls and of written bytes is written to FILE
//
// Standard output and standard error do not count.
#include <dlfcn.h>
#include <signal.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>

namespace {

std::atomic<long long> calls, bytes;

long long setting(const char* name) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::atoll(text) : -1;
}

bool dies_now() { return ++calls == setting("NIBBLE_TEST_KILL_AT"); }
void die_here() {
  if (dies_now()) raise(SIGKILL);
}

bool disk_is_full(size_t count) {
  const long long limit = setting("NIBBLE_TEST_DISK_BYTES"), size = static_cast<long long>(count);
  if (limit >= 0 && bytes + size > limit) {
    errno = ENOSPC;
    return true;
  }
  bytes += size;
  return false;
}

__attribute__((destructor)) void report() {
  const char* path = std::getenv("NIBBLE_TEST_COUNT");
  std::FILE* file = path != nullptr ? std::fopen(path, "w") : nullptr;
  if (file == nullptr) return;
  std::fprintf(file, "%lld %lld\n", calls.load(), bytes.load());
  std::fclose(file);
}

// The function that this library stands in front of.
template <class Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

ssize_t write(int fd, const void* data, size_t count) {
  auto* original = next<ssize_t(int, const void*, size_t)>("write");
  if (fd <= 2) return original(fd, data, count);
  if (dies_now()) {
    const ssize_t half = original(fd, data, count / 2);
    raise(SIGKILL);
    return half;
  }
  return disk_is_full(count) ? -1 : original(fd, data, count);
}

ssize_t pwrite(int fd, const void* data, size_t count, off_t offset) {
  auto* original = next<ssize_t(int, const void*, size_t, off_t)>("pwrite");
  if (dies_now()) {
    const ssize_t half = original(fd, data, count / 2, offset);
    raise(SIGKILL);
    return half;
  }
  return disk_is_full(count) ? -1 : original(fd, data, count, offset);
}

ssize_t writev(int fd, const iovec* parts, int count) {
  size_t total = 0;
  for (int i = 0; i < count; ++i) total += parts[i].iov_len;
  if (fd > 2) die_here();
  if (fd > 2 && disk_is_full(total)) return -1;
  return next<ssize_t(int, const iovec*, int)>("writev")(fd, parts, count);
}

int statvfs(const char* path, struct statvfs* info) noexcept {
  const int result = next<int(const char*, struct statvfs*)>("statvfs")(path, info);
  if (const long long free = setting("NIBBLE_TEST_FREE_BYTES"); free >= 0 && result == 0) {
    info->f_bavail = static_cast<fsblkcnt_t>(free);
    info->f_frsize = info->f_bsize = 1;
  }
  return result;
}

int fsync(int fd) {
  die_here();
  return next<int(int)>("fsync")(fd);
}

int rename(const char* from, const char* to) noexcept {
  die_here();
  return next<int(const char*, const char*)>("rename")(from, to);
}

int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) noexcept {
  die_here();
  return next<int(int, const char*, int, const char*, unsigned)>("renameat2")(from_folder, from, to_folder, to, flags);
}

int mkdir(const char* path, mode_t mode) noexcept {
  die_here();
  return next<int(const char*, mode_t)>("mkdir")(path, mode);
}

int unlink(const char* path) noexcept {
  die_here();
  return next<int(const char*)>("unlink")(path);
}

int unlinkat(int folder, const char* path, int flags) noexcept {
  die_here();
  return next<int(int, const char*, int)>("unlinkat")(folder, path, flags);
}

// std::filesystem::remove calls this, and not unlink.
int remove(const char* path) noexcept {
  die_here();
  return next<int(const char*)>("remove")(path);
}

int rmdir(const char* path) noexcept {
  die_here();
  return next<int(const char*)>("rmdir")(path);
}

}  // extern "C"
