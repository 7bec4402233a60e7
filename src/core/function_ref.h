// A reference to something callable: what a function takes to call back before it returns. Unlike std::function it owns
// nothing and allocates nothing; whatever it was made from must outlive the call.
#pragma once

#include <memory>
#include <type_traits>
#include <utility>

namespace nibble {

template <class Signature>
class FunctionRef;

template <class Return, class... Arguments>
class FunctionRef<Return(Arguments...)> {
 public:
  template <class F>
  requires(!std::is_same_v<std::remove_cvref_t<F>, FunctionRef> && std::is_invocable_r_v<Return, F&, Arguments...>)
      FunctionRef(F&& f)  // NOLINT: implicit, so that a lambda can be written where it is called
      : target_(const_cast<void*>(static_cast<const void*>(std::addressof(f)))),
        call_([](void* target, Arguments... arguments) -> Return {
          return (*static_cast<std::remove_reference_t<F>*>(target))(std::forward<Arguments>(arguments)...);
        }) {}

  Return operator()(Arguments... arguments) const { return call_(target_, std::forward<Arguments>(arguments)...); }

 private:
  void* target_;
  Return (*call_)(void*, Arguments...);
};

}  // namespace nibble
