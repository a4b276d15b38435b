/* A libcuda.so.1 that answers just enough for the states of a machine without a usable GPU.

   STUB_VERSION  CUDA that the driver knows, 13000 for 13.0 (the default)
   STUB_INIT     status of cuInit: 0 (the default), 100 no device, 803 driver mismatch, ... */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>

enum { NOT_FOUND = 500, NOT_SUPPORTED = 801 };

static int setting(const char *name, int otherwise) {
  const char *text = getenv(name);
  return text ? atoi(text) : otherwise;
}

int cuInit(unsigned flags) { return setting("STUB_INIT", 0); }

int cuDriverGetVersion(int *version) {
  *version = setting("STUB_VERSION", 13000);
  return 0;
}

int cuDeviceGetCount(int *count) {
  *count = 0;
  return 0;
}

int cuGetErrorString(int error, const char **text) {
  *text = "stub";
  return 0;
}

int cuGetErrorName(int error, const char **text) {
  *text = "STUB";
  return 0;
}

int cuGetExportTable(const void **table, const unsigned char *id) {
  *table = 0;
  return NOT_FOUND;
}

static int unsupported(void) { return NOT_SUPPORTED; }

int cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags,
                        int *status) {
  void *self = dlopen("libcuda.so.1", RTLD_NOLOAD | RTLD_NOW);
  void *found = dlsym(self, symbol);
  *function = found ? found : (void *)unsupported;
  if (status) *status = 0;
  return 0;
}

int cuGetProcAddress(const char *symbol, void **function, int version, uint64_t flags) {
  return cuGetProcAddress_v2(symbol, function, version, flags, 0);
}
