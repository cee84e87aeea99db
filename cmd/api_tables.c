/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bodies of Firecracker's API, field by field, in Firecracker's order (messages list it), and
 * Sosia's own fields, which begin with "sosia_" or are in the resource "sosia".
 */
#include "cmd/api_config.h"

#define SCHEMA(var, label, fields)                                                                 \
    const struct api_schema var = {.name = (label), .field = (fields), .count = ARRAY_LEN(fields)}
#define STATIC_SCHEMA(var, label, fields) static SCHEMA(var, label, fields)

#define U8_MAX  .max = UINT8_MAX
#define U16_MAX .max = UINT16_MAX
#define U32_MAX .max = UINT32_MAX
#define ANY_MAX .max = INT64_MAX

#define REQ API_REQUIRED

const char api_default_boot_args[] =
    "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd "
    "swiotlb=noforce";

/* --- rate limiters ---------------------------------------------------------------------------- */

static const struct api_field bucket_fields[] = {
    {"size", API_UINT, REQ, ANY_MAX},
    {"one_time_burst", API_UINT, 0, ANY_MAX},
    {"refill_time", API_UINT, REQ, ANY_MAX},
};
STATIC_SCHEMA(bucket, "struct TokenBucketConfig", bucket_fields);

static const struct api_field limiter_fields[] = {
    {"bandwidth", API_OBJECT, .sub = &bucket},
    {"ops", API_OBJECT, .sub = &bucket},
};
STATIC_SCHEMA(limiter, "struct RateLimiterConfig", limiter_fields);

/* --- boot-source, machine-config, cpu-config -------------------------------------------------- */

static const struct api_field boot_fields[] = {
    {"kernel_image_path", API_PATH, REQ},
    {"initrd_path", API_PATH},
    {"boot_args", API_PATH},
};
STATIC_SCHEMA(boot_source, "struct BootSourceConfig", boot_fields);

static const char *const huge_pages[] = {"None", "Transparent", "2M", NULL};
static const char *const templates[] = {"C3", "T2", "T2S", "T2CL", "T2A", "None", NULL};

static const struct api_field machine_fields[] = {
    {"vcpu_count", API_UINT, REQ, U8_MAX},
    {"mem_size_mib", API_UINT, REQ, ANY_MAX},
    {"smt", API_BOOL, .preset = "false"},
    {"cpu_template", API_ENUM, API_DEPRECATED, .names = templates},
    {"track_dirty_pages", API_BOOL, .preset = "false"},
    {"huge_pages", API_ENUM, .names = huge_pages, .preset = "\"None\""},
    {"gdb_socket_path", API_PATH},
};
STATIC_SCHEMA(machine, "struct MachineConfig", machine_fields);

static const struct api_field machine_patch_fields[] = {
    {"vcpu_count", API_UINT, 0, U8_MAX},
    {"mem_size_mib", API_UINT, 0, ANY_MAX},
    {"smt", API_BOOL},
    {"cpu_template", API_ENUM, API_DEPRECATED, .names = templates},
    {"track_dirty_pages", API_BOOL},
    {"huge_pages", API_ENUM, .names = huge_pages},
    {"gdb_socket_path", API_PATH},
};
SCHEMA(api_machine_patch, "struct MachineConfigUpdate", machine_patch_fields);

static const char *const cpuid_registers[] = {"eax", "ebx", "ecx", "edx", NULL};
static const struct api_field cpuid_register_fields[] = {
    {"register", API_ENUM, REQ, .names = cpuid_registers},
    {"bitmap", API_STRING, REQ},
};
STATIC_SCHEMA(cpuid_register, "struct CpuidRegisterModifier", cpuid_register_fields);

static const struct api_field cpuid_leaf_fields[] = {
    {"leaf", API_STRING, REQ},
    {"subleaf", API_STRING, REQ},
    {"flags", API_UINT, REQ, U32_MAX},
    {"modifiers", API_LIST, REQ, .sub = &cpuid_register},
};
STATIC_SCHEMA(cpuid_leaf, "struct CpuidLeafModifier", cpuid_leaf_fields);

static const struct api_field msr_fields[] = {
    {"addr", API_STRING, REQ},
    {"bitmap", API_STRING, REQ},
};
STATIC_SCHEMA(msr, "struct RegisterModifier", msr_fields);

static const struct api_field cpu_fields[] = {
    {"kvm_capabilities", API_STRINGS, .preset = "[]"},
    {"cpuid_modifiers", API_LIST, .sub = &cpuid_leaf, .preset = "[]"},
    {"msr_modifiers", API_LIST, .sub = &msr, .preset = "[]"},
    {"reg_modifiers", API_LIST, .sub = &msr, .preset = "[]"},
    {"vcpu_features", API_ANY, .preset = "[]"},
};
STATIC_SCHEMA(cpu, "struct CustomCpuTemplate", cpu_fields);

/* --- devices ---------------------------------------------------------------------------------- */

static const char *const caches[] = {"Unsafe", "Writeback", NULL};
static const char *const io_engines[] = {"Async", "Sync", NULL};
static const char *const formats[] = {"raw", "qcow2", NULL};

static const struct api_field drive_fields[] = {
    {"drive_id", API_STRING, REQ},
    {"partuuid", API_PATH},
    {"is_root_device", API_BOOL, REQ},
    {"cache_type", API_ENUM, .names = caches, .preset = "\"Unsafe\""},
    {"is_read_only", API_BOOL, .preset = "false"},
    {"path_on_host", API_PATH},
    {"rate_limiter", API_OBJECT, .sub = &limiter},
    {"io_engine", API_ENUM, .names = io_engines, .preset = "\"Sync\""},
    {"socket", API_PATH},
    {"sosia_format", API_ENUM, .names = formats},
    {"sosia_snapshot", API_BOOL},
};
STATIC_SCHEMA(drive, "struct BlockDeviceConfig", drive_fields);

static const struct api_field drive_patch_fields[] = {
    {"drive_id", API_STRING, REQ},
    {"path_on_host", API_PATH},
    {"rate_limiter", API_OBJECT, .sub = &limiter},
};
SCHEMA(api_drive_patch, "struct BlockDeviceUpdateConfig", drive_patch_fields);

static const struct api_field net_fields[] = {
    {"iface_id", API_STRING, REQ},
    {"host_dev_name", API_PATH},
    {"guest_mac", API_STRING},
    {"mtu", API_UINT, 0, U16_MAX},
    {"rx_rate_limiter", API_OBJECT, .sub = &limiter},
    {"tx_rate_limiter", API_OBJECT, .sub = &limiter},
    {"sosia_network", API_PATH},
};
STATIC_SCHEMA(net, "struct NetworkInterfaceConfig", net_fields);

static const struct api_field net_patch_fields[] = {
    {"iface_id", API_STRING, REQ},
    {"rx_rate_limiter", API_OBJECT, .sub = &limiter},
    {"tx_rate_limiter", API_OBJECT, .sub = &limiter},
};
SCHEMA(api_net_patch, "struct NetworkInterfaceUpdateConfig", net_patch_fields);

static const struct api_field pmem_fields[] = {
    {"id", API_STRING, REQ},
    {"path_on_host", API_PATH, REQ},
    {"root_device", API_BOOL, .preset = "false"},
    {"read_only", API_BOOL, .preset = "false"},
    {"rate_limiter", API_OBJECT, .sub = &limiter},
};
STATIC_SCHEMA(pmem, "struct PmemConfig", pmem_fields);

static const struct api_field pmem_patch_fields[] = {
    {"id", API_STRING, REQ},
    {"rate_limiter", API_OBJECT, .sub = &limiter},
};
SCHEMA(api_pmem_patch, "struct PmemUpdateConfig", pmem_patch_fields);

static const struct api_field vsock_fields[] = {
    {"vsock_id", API_STRING, API_DEPRECATED},
    {"guest_cid", API_UINT, REQ, U32_MAX},
    {"uds_path", API_PATH, REQ},
};
STATIC_SCHEMA(vsock, "struct VsockDeviceConfig", vsock_fields);

static const struct api_field entropy_fields[] = {{"rate_limiter", API_OBJECT, .sub = &limiter}};
STATIC_SCHEMA(entropy, "struct EntropyDeviceConfig", entropy_fields);

static const struct api_field serial_fields[] = {
    {"serial_out_path", API_PATH},
    {"rate_limiter", API_OBJECT, .sub = &bucket},
};
STATIC_SCHEMA(serial, "struct SerialConfig", serial_fields);

static const struct api_field balloon_fields[] = {
    {"amount_mib", API_UINT, REQ, U32_MAX},
    {"deflate_on_oom", API_BOOL, REQ},
    {"stats_polling_interval_s", API_UINT, 0, U16_MAX, .preset = "0"},
    {"free_page_hinting", API_BOOL, .preset = "false"},
    {"free_page_reporting", API_BOOL, .preset = "false"},
};
STATIC_SCHEMA(balloon, "struct BalloonDeviceConfig", balloon_fields);

static const struct api_field balloon_patch_fields[] = {{"amount_mib", API_UINT, REQ, U32_MAX}};
SCHEMA(api_balloon_patch, "struct BalloonUpdateConfig", balloon_patch_fields);

static const struct api_field balloon_stats_fields[] = {
    {"stats_polling_interval_s", API_UINT, REQ, U16_MAX}};
SCHEMA(api_balloon_stats_patch, "struct BalloonUpdateStatsConfig", balloon_stats_fields);

static const struct api_field hinting_fields[] = {
    {"acknowledge_on_stop", API_BOOL, .preset = "true"}};
SCHEMA(api_hinting_start, "struct StartHintingCmd", hinting_fields);

static const struct api_field memory_fields[] = {
    {"total_size_mib", API_UINT, REQ, ANY_MAX},
    {"block_size_mib", API_UINT, 0, ANY_MAX, .preset = "2"},
    {"slot_size_mib", API_UINT, 0, ANY_MAX, .preset = "128"},
};
STATIC_SCHEMA(memory, "struct MemoryHotplugConfig", memory_fields);

static const struct api_field memory_patch_fields[] = {
    {"requested_size_mib", API_UINT, REQ, ANY_MAX}};
SCHEMA(api_memory_patch, "struct MemoryHotplugSizeUpdate", memory_patch_fields);

/* --- logger, metrics, mmds -------------------------------------------------------------------- */

static const char *const levels[] = {"Off",   "Error", "Warn",  "Warning", "Info",    "Debug",
                                     "Trace", "OFF",   "ERROR", "WARN",    "WARNING", "INFO",
                                     "DEBUG", "TRACE", "off",   "error",   "warn",    "warning",
                                     "info",  "debug", "trace", NULL};

static const struct api_field logger_fields[] = {
    {"log_path", API_PATH},   {"level", API_ENUM, .names = levels},
    {"show_level", API_BOOL}, {"show_log_origin", API_BOOL},
    {"module", API_STRING},
};
STATIC_SCHEMA(logger, "struct LoggerConfig", logger_fields);

static const struct api_field metrics_fields[] = {
    {"metrics_path", API_PATH, REQ},
    {"emit_id", API_BOOL, .preset = "false"},
    {"properties", API_ANY},
};
STATIC_SCHEMA(metrics, "struct MetricsConfig", metrics_fields);

static const char *const mmds_versions[] = {"V1", "V2", NULL};

static const struct api_field mmds_fields[] = {
    {"version", API_ENUM, .names = mmds_versions, .preset = "\"V1\""},
    {"network_interfaces", API_STRINGS, REQ},
    {"ipv4_address", API_STRING, .preset = "\"169.254.169.254\""},
    {"imds_compat", API_BOOL, .preset = "false"},
};
STATIC_SCHEMA(mmds, "struct MmdsConfig", mmds_fields);

/* --- requests --------------------------------------------------------------------------------- */

static const char *const action_types[] = {"FlushMetrics", "InstanceStart", "SendCtrlAltDel", NULL};
static const struct api_field action_fields[] = {
    {"action_type", API_ENUM, REQ, .names = action_types}};
SCHEMA(api_action, "struct ActionBody", action_fields);

static const char *const vm_states[] = {"Paused", "Resumed", NULL};
static const struct api_field vm_fields[] = {{"state", API_ENUM, REQ, .names = vm_states}};
SCHEMA(api_vm_state, "struct Vm", vm_fields);

static const char *const snapshot_types[] = {"Full", "Diff", NULL};
static const struct api_field snapshot_create_fields[] = {
    {"snapshot_type", API_ENUM, .names = snapshot_types, .preset = "\"Full\""},
    {"snapshot_path", API_PATH, REQ},
    {"mem_file_path", API_PATH, REQ},
};
SCHEMA(api_snapshot_create, "struct CreateSnapshotParams", snapshot_create_fields);

static const char *const backend_types[] = {"File", "Uffd", NULL};
static const struct api_field backend_fields[] = {
    {"backend_path", API_PATH, REQ},
    {"backend_type", API_ENUM, REQ, .names = backend_types},
};
STATIC_SCHEMA(mem_backend, "struct MemBackendConfig", backend_fields);

static const struct api_field net_override_fields[] = {
    {"iface_id", API_STRING, REQ},
    {"host_dev_name", API_PATH, REQ},
};
STATIC_SCHEMA(net_override, "struct NetworkOverride", net_override_fields);

static const struct api_field vsock_override_fields[] = {{"uds_path", API_PATH, REQ}};
STATIC_SCHEMA(vsock_override, "struct VsockOverride", vsock_override_fields);

static const struct api_field snapshot_load_fields[] = {
    {"snapshot_path", API_PATH, REQ},
    {"mem_file_path", API_PATH, API_DEPRECATED},
    {"mem_backend", API_OBJECT, .sub = &mem_backend},
    {"enable_diff_snapshots", API_BOOL, API_DEPRECATED},
    {"track_dirty_pages", API_BOOL, .preset = "false"},
    {"resume_vm", API_BOOL, .preset = "false"},
    {"network_overrides", API_LIST, .sub = &net_override, .preset = "[]"},
    {"vsock_override", API_OBJECT, .sub = &vsock_override},
    {"clock_realtime", API_BOOL, .preset = "false"},
    {"huge_pages", API_ENUM, .names = huge_pages},
    {"sosia_check", API_BOOL},
};
SCHEMA(api_snapshot_load, "struct LoadSnapshotConfig", snapshot_load_fields);

/* --- Sosia's own ------------------------------------------------------------------------------ */

static const char *const engines[] = {"auto", "kvm", "soft", NULL};
static const char *const transports[] = {"pci", "mmio", "mmio-cmdline", NULL};

static const struct api_field sosia_fields[] = {
    {"engine", API_ENUM, .names = engines, .preset = "\"auto\""},
    {"transport", API_ENUM, .names = transports},
    {"translator", API_BOOL, .preset = "true"},
    {"test_devices", API_BOOL, .preset = "false"},
};
STATIC_SCHEMA(sosia, "struct SosiaConfig", sosia_fields);

/* --- resources -------------------------------------------------------------------------------- */

const struct api_resource api_singles[API_SINGLES] = {
    [API_BALLOON] = {"balloon", &balloon, .prefix = "Balloon config error"},
    [API_BOOT_SOURCE] = {"boot-source", &boot_source, .prefix = "Boot source error"},
    [API_CPU_CONFIG] = {"cpu-config", &cpu, .prefix = "Configure CPU error"},
    [API_ENTROPY] = {"entropy", &entropy, .prefix = "Entropy device error"},
    [API_LOGGER] = {"logger", &logger, .prefix = "Logger error"},
    [API_MACHINE_CONFIG] = {"machine-config", &machine, .prefix = "Machine config error"},
    [API_MEMORY_HOTPLUG] = {"memory-hotplug", &memory, .prefix = "Memory hotplug config error"},
    [API_METRICS] = {"metrics", &metrics, .prefix = "Metrics error"},
    [API_MMDS_CONFIG] = {"mmds-config", &mmds, .prefix = "MMMDS config error"},
    [API_SERIAL] = {"serial", &serial, .prefix = "Serial error"},
    [API_SOSIA] = {"sosia", &sosia, .prefix = "Sosia config error"},
    [API_VSOCK] = {"vsock", &vsock, .prefix = "Vsock config error"},
};

const struct api_resource api_manies[API_MANIES] = {
    [API_DRIVES] = {"drives", &drive, "drive_id", OPT_MAX_DISKS, "Drive config error"},
    [API_NETWORKS] = {"network-interfaces", &net, "iface_id", OPT_MAX_NETS, "Network config error"},
    [API_PMEMS] = {"pmem", &pmem, "id", 8, "Pmem device error"},
};
