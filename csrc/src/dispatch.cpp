// Which kernels this CPU can run, and which of them a model uses.
#include <cstring>
#include <string>

#include "kernels.h"
#include "owled_sparse.h"

namespace owled {
namespace {

const Kernels* const kTables[] = {
#if defined(__x86_64__)
  &kAvx512Bf16Kernels, &kAvx512Kernels, &kAvx2Kernels,
#elif defined(__aarch64__)
  &kNeonKernels,
#endif
  &kScalarKernels,
};
constexpr int kCount = sizeof(kTables) / sizeof(kTables[0]);

}  // namespace

const Kernels* kernels_at(int index) { return index >= 0 && index < kCount ? kTables[index] : nullptr; }

bool kernels_usable(const Kernels& kernels) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("popcnt") &&
                    __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
                      __builtin_cpu_supports("avx512vnni");
  if (&kernels == &kAvx2Kernels) return avx2;
  if (&kernels == &kAvx512Kernels) return avx512;
  if (&kernels == &kAvx512Bf16Kernels) return avx512 && __builtin_cpu_supports("avx512bf16");
#endif
  (void)kernels;
  return true;
}

const Kernels& choose_kernels(const char* name) {
  const bool any = name == nullptr || *name == '\0' || std::strcmp(name, "auto") == 0;
  std::string usable;
  for (const Kernels* table : kTables) {
    if (!kernels_usable(*table)) continue;
    if (any || std::strcmp(name, table->name) == 0) return *table;
    usable += usable.empty() ? table->name : std::string(", ") + table->name;
  }
  throw Error{OWLED_BAD_ARGUMENT, std::string("kernel '") + name + "' cannot run on this CPU; these can: " + usable};
}

}  // namespace owled
