/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The kernel's ublk ABI: command numbers, flags and structures that cross into the driver.
 *
 * Included by src/ublk/ (both processes) and by nobody else: no back end sees a ublk structure. The
 * names are the kernel's (Documentation/block/ublk.rst and <linux/ublk_cmd.h>). The system's own
 * header is not used, because Debian 12's is that of Linux 6.1 and lacks half of what is here;
 * every width and offset that the driver relies on is asserted below.
 */
#ifndef UBLK_BRIDGE_UBLK_ABI_H
#define UBLK_BRIDGE_UBLK_ABI_H

#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>

/* ---- commands ------------------------------------------------------------ */

struct ublksrv_ctrl_cmd {
	uint32_t dev_id;
	uint16_t queue_id; /* UINT16_MAX: none */
	uint16_t len;	   /* bytes at addr */
	uint64_t addr;
	uint64_t data[1];
	uint16_t dev_path_len; /* unprivileged devices only */
	uint16_t pad;
	uint32_t reserved;
};

struct ublksrv_io_cmd {
	uint16_t q_id;
	uint16_t tag;
	int32_t result; /* COMMIT only: bytes, or a negative errno */
	uint64_t addr;	/* what it means depends on the data path: src/ublk/datapath.h */
};

/* The encoded forms: kernels without UBLK_LEGACY_OPCODES refuse bare numbers. */
#define UBLK_U_CMD_GET_QUEUE_AFFINITY  _IOR('u', 0x01, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_GET_DEV_INFO	       _IOR('u', 0x02, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_ADD_DEV	       _IOWR('u', 0x04, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_DEL_DEV	       _IOWR('u', 0x05, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_START_DEV	       _IOWR('u', 0x06, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_STOP_DEV	       _IOWR('u', 0x07, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_SET_PARAMS	       _IOWR('u', 0x08, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_GET_PARAMS	       _IOR('u', 0x09, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_START_USER_RECOVERY _IOWR('u', 0x10, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_END_USER_RECOVERY   _IOWR('u', 0x11, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_GET_FEATURES	       _IOR('u', 0x13, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_UPDATE_SIZE	       _IOWR('u', 0x15, struct ublksrv_ctrl_cmd) /* data: sectors */
#define UBLK_U_CMD_TRY_STOP_DEV	       _IOWR('u', 0x17, struct ublksrv_ctrl_cmd)

#define UBLK_U_IO_FETCH_REQ	       _IOWR('u', 0x20, struct ublksrv_io_cmd)
#define UBLK_U_IO_COMMIT_AND_FETCH_REQ _IOWR('u', 0x21, struct ublksrv_io_cmd)
#define UBLK_U_IO_NEED_GET_DATA	       _IOWR('u', 0x22, struct ublksrv_io_cmd)

/* Results of a completed FETCH, COMMIT_AND_FETCH or NEED_GET_DATA. A negative one is an abort. */
#define UBLK_IO_RES_OK		  0
#define UBLK_IO_RES_NEED_GET_DATA 1

/* ---- features and flags -------------------------------------------------- */

#define UBLK_F_SUPPORT_ZERO_COPY      (1ULL << 0)
#define UBLK_F_URING_CMD_COMP_IN_TASK (1ULL << 1)
#define UBLK_F_NEED_GET_DATA	      (1ULL << 2)
#define UBLK_F_USER_RECOVERY	      (1ULL << 3)
#define UBLK_F_USER_RECOVERY_REISSUE  (1ULL << 4)
#define UBLK_F_UNPRIVILEGED_DEV	      (1ULL << 5)
#define UBLK_F_CMD_IOCTL_ENCODE	      (1ULL << 6)
#define UBLK_F_USER_COPY	      (1ULL << 7)
#define UBLK_F_ZONED		      (1ULL << 8)
#define UBLK_F_USER_RECOVERY_FAIL_IO  (1ULL << 9)
#define UBLK_F_UPDATE_SIZE	      (1ULL << 10)
#define UBLK_F_AUTO_BUF_REG	      (1ULL << 11)
#define UBLK_F_QUIESCE		      (1ULL << 12)
#define UBLK_F_PER_IO_DAEMON	      (1ULL << 13)
#define UBLK_F_BUF_REG_OFF_DAEMON     (1ULL << 14)
#define UBLK_F_BATCH_IO		      (1ULL << 15)
#define UBLK_F_INTEGRITY	      (1ULL << 16)
#define UBLK_F_SAFE_STOP_DEV	      (1ULL << 17)
#define UBLK_F_NO_AUTO_PART_SCAN      (1ULL << 18)
#define UBLK_F_SHMEM_ZC		      (1ULL << 19)
#define UBLK_F_IO_DESC_SIZE	      (1ULL << 20)

/* ---- the device ---------------------------------------------------------- */

enum {
	UBLK_S_DEV_DEAD = 0, /* also: added and not started */
	UBLK_S_DEV_LIVE = 1,
	UBLK_S_DEV_QUIESCED = 2,
	UBLK_S_DEV_FAIL_IO = 3,
};

struct ublksrv_ctrl_dev_info {
	uint16_t nr_hw_queues;
	uint16_t queue_depth;
	uint16_t state;
	uint16_t pad0;
	uint32_t max_io_buf_bytes;
	uint32_t dev_id;
	int32_t ublksrv_pid;
	uint32_t pad1;
	uint64_t flags;
	uint64_t ublksrv_flags; /* the server's own: the driver keeps it and never looks */
	uint32_t owner_uid;
	uint32_t owner_gid;
	uint64_t reserved1;
	uint64_t reserved2;
};

#define UBLK_MAX_QUEUE_DEPTH 4096
#define UBLK_MAX_NR_QUEUES   4096
#define UBLK_MAX_DEV_ID	     ((1U << 20) - 1) /* ids are the block layer's minors */

/* ---- parameters ---------------------------------------------------------- */

#define UBLK_ATTR_READ_ONLY	 (1U << 0)
#define UBLK_ATTR_ROTATIONAL	 (1U << 1)
#define UBLK_ATTR_VOLATILE_CACHE (1U << 2)
#define UBLK_ATTR_FUA		 (1U << 3) /* dropped without VOLATILE_CACHE */

struct ublk_param_basic {
	uint32_t attrs;
	uint8_t logical_bs_shift;
	uint8_t physical_bs_shift;
	uint8_t io_opt_shift;
	uint8_t io_min_shift;
	uint32_t max_sectors;
	uint32_t chunk_sectors;
	uint64_t dev_sectors;
	uint64_t virt_boundary_mask;
};

struct ublk_param_discard {
	uint32_t discard_alignment;
	uint32_t discard_granularity;
	uint32_t max_discard_sectors;
	uint32_t max_write_zeroes_sectors;
	uint16_t max_discard_segments;
	uint16_t reserved0;
};

struct ublk_param_devt { /* GET_PARAMS only */
	uint32_t char_major;
	uint32_t char_minor;
	uint32_t disk_major;
	uint32_t disk_minor;
};

struct ublk_param_zoned {
	uint32_t max_open_zones;
	uint32_t max_active_zones;
	uint32_t max_zone_append_sectors;
	uint8_t reserved[20];
};

#define UBLK_PARAM_TYPE_BASIC	(1U << 0)
#define UBLK_PARAM_TYPE_DISCARD (1U << 1)
#define UBLK_PARAM_TYPE_DEVT	(1U << 2)

/* Linux 6.12's form. Later ones are longer at the end; `len` tells the driver which one it gets. */
struct ublk_params {
	uint32_t len;
	uint32_t types;
	struct ublk_param_basic basic;
	struct ublk_param_discard discard;
	struct ublk_param_devt devt;
	struct ublk_param_zoned zoned;
};

/* ---- the I/O descriptor, mapped from /dev/ublkcN ------------------------- */

#define UBLK_IO_OP_READ		0
#define UBLK_IO_OP_WRITE	1
#define UBLK_IO_OP_FLUSH	2
#define UBLK_IO_OP_DISCARD	3
#define UBLK_IO_OP_WRITE_ZEROES 5

#define UBLK_IO_F_FUA	  (1U << 13)
#define UBLK_IO_F_NOUNMAP (1U << 15)

struct ublksrv_io_desc {
	uint32_t op_flags;   /* operation in the low eight bits */
	uint32_t nr_sectors; /* of 512 bytes, whatever the block size */
	uint64_t start_sector;
	uint64_t addr;
};

/* Bytes between two queues' descriptor arrays in the mapping. */
#define UBLK_QUEUE_DESC_STRIDE (UBLK_MAX_QUEUE_DEPTH * sizeof(struct ublksrv_io_desc))

/* USER_COPY: where a tag's data lies in the "file" /dev/ublkcN. */
#define UBLKSRV_IO_BUF_OFFSET 0x80000000ULL
#define UBLK_TAG_OFF	      25
#define UBLK_QID_OFF	      41

/* ---- what the driver relies on ------------------------------------------- */

#define UBLK_ABI_SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), #type)
#define UBLK_ABI_AT(type, field, offset) \
	_Static_assert(offsetof(type, field) == (offset), #type "." #field)

UBLK_ABI_SIZE(struct ublksrv_ctrl_cmd, 32);
UBLK_ABI_AT(struct ublksrv_ctrl_cmd, queue_id, 4);
UBLK_ABI_AT(struct ublksrv_ctrl_cmd, len, 6);
UBLK_ABI_AT(struct ublksrv_ctrl_cmd, addr, 8);
UBLK_ABI_AT(struct ublksrv_ctrl_cmd, data, 16);
UBLK_ABI_AT(struct ublksrv_ctrl_cmd, dev_path_len, 24);
UBLK_ABI_SIZE(struct ublksrv_io_cmd, 16);
UBLK_ABI_AT(struct ublksrv_io_cmd, tag, 2);
UBLK_ABI_AT(struct ublksrv_io_cmd, result, 4);
UBLK_ABI_AT(struct ublksrv_io_cmd, addr, 8);
UBLK_ABI_SIZE(struct ublksrv_ctrl_dev_info, 64);
UBLK_ABI_AT(struct ublksrv_ctrl_dev_info, max_io_buf_bytes, 8);
UBLK_ABI_AT(struct ublksrv_ctrl_dev_info, ublksrv_pid, 16);
UBLK_ABI_AT(struct ublksrv_ctrl_dev_info, flags, 24);
UBLK_ABI_AT(struct ublksrv_ctrl_dev_info, ublksrv_flags, 32);
UBLK_ABI_AT(struct ublksrv_ctrl_dev_info, owner_uid, 40);
UBLK_ABI_SIZE(struct ublk_param_basic, 32);
UBLK_ABI_SIZE(struct ublk_param_discard, 20);
UBLK_ABI_SIZE(struct ublk_param_devt, 16);
UBLK_ABI_SIZE(struct ublk_param_zoned, 32);
UBLK_ABI_SIZE(struct ublk_params, 112);
UBLK_ABI_AT(struct ublk_params, basic, 8);
UBLK_ABI_AT(struct ublk_params, discard, 40);
UBLK_ABI_AT(struct ublk_params, devt, 60);
UBLK_ABI_AT(struct ublk_params, zoned, 76);
UBLK_ABI_SIZE(struct ublksrv_io_desc, 24);
UBLK_ABI_AT(struct ublksrv_io_desc, start_sector, 8);
_Static_assert(UBLK_U_CMD_GET_FEATURES == 0x80207513, "encoded control opcode");
_Static_assert(UBLK_U_CMD_ADD_DEV == 0xc0207504, "encoded control opcode");
_Static_assert(UBLK_U_IO_FETCH_REQ == 0xc0107520, "encoded I/O opcode");
_Static_assert(UBLK_QUEUE_DESC_STRIDE == 98304, "distance between queues");

#endif
