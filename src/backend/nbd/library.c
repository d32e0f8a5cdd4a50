/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Loading libnbd. Control plane. */
#include "backend/nbd/library.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"

#define LIBRARY_FILE "libnbd.so.0"

struct nbd_library nbd;

static int library_symbol(void *handle, const char *name, void **symbol, struct ub_err *err)
{
	*symbol = dlsym(handle, name);
	if (*symbol)
		return 0;
	return ub_err_set(err, ENOTSUP, LIBRARY_FILE " has no %s(): libnbd 1.14 or later is needed",
			  name);
}

int nbd_library_load(struct ub_err *err)
{
	static void *handle;
	int ret = 0;

	if (handle)
		return 0;
	handle = dlopen(LIBRARY_FILE, RTLD_NOW | RTLD_LOCAL);
	if (!handle)
		return ub_err_set(err, ENOTSUP,
				  "cannot load " LIBRARY_FILE
				  ": install libnbd0 (Debian) or libnbd (Fedora): %s",
				  dlerror());
#define LIBRARY_LOAD(name) \
	if (ret == 0) \
		ret = library_symbol(handle, "nbd_" #name, (void **)&nbd.name, err);
	NBD_LIBRARY_CALLS(LIBRARY_LOAD)
#undef LIBRARY_LOAD
	*(void **)&nbd.set_tls_hostname = dlsym(handle, "nbd_set_tls_hostname");
	if (ret) {
		dlclose(handle);
		handle = NULL;
	}
	return ret;
}

static int library_lock_object(struct dl_phdr_info *info, size_t size, void *arg)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);

	(void)size;
	(void)arg;
	if (strstr(info->dlpi_name, "libicudata"))
		return 0;
	for (unsigned i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
		uintptr_t start = (info->dlpi_addr + segment->p_vaddr) & ~(page - 1);
		uintptr_t end = info->dlpi_addr + segment->p_vaddr + segment->p_memsz;

		if (segment->p_type == PT_LOAD && mlock((const void *)start, end - start) < 0)
			ub_log(UB_LOG_DEBUG, "cannot lock %s: %s", info->dlpi_name,
			       strerror(errno));
	}
	return 0;
}

void nbd_library_lock(void)
{
	dl_iterate_phdr(library_lock_object, NULL);
}
