"""Sends back every type of `wit/`, in Python."""

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.inventory import Description, MachinePage
from wit_world.imports import clock, log, progress, settings
from wit_world.imports.model import Firmware, Machine, PlatformError_Unsupported, PowerState


def identity(self, value):
    """The value itself."""
    return value


def unsupported(self, *_):
    """What this component cannot do."""
    raise Err(PlatformError_Unsupported("echo"))


def implementing(protocol, names, function):
    """A class that implements each of the named functions of an interface by the same one."""
    return type(protocol.__name__, (protocol,), {name: function for name in names.split()})


Echo = implementing(
    exports.Echo,
    """echo_host_error echo_log_level echo_update echo_document echo_clock_instant echo_chunk echo_written
    echo_tcp_address echo_address echo_exported_disk echo_http_method echo_header echo_http_request
    echo_http_response echo_block_read echo_block_write echo_block_disk echo_file echo_entry echo_entry_page
    echo_removal echo_slot echo_repetition echo_completion echo_platform_error echo_property echo_disk
    echo_network_interface echo_firmware echo_power_state echo_machine echo_pending echo_done echo_description
    echo_machine_page echo_consistency echo_tracked_disk echo_capture_request echo_instant echo_capture_report
    echo_capture_status echo_capture_step echo_changes echo_allocation echo_captured_disk echo_captured_disk_page
    echo_outcome echo_capture_end echo_block_set echo_block echo_block_page echo_power_manner echo_power_status
    echo_power_step echo_disk_request echo_disk_status echo_disk_step echo_written_blocks echo_finding
    echo_finding_page echo_machine_request echo_machine_status echo_machine_step echo_readiness_level echo_readiness
    echo_machine_manner echo_kind echo_owned echo_owned_page""",
    identity,
)


class Inventory(exports.Inventory):
    """What there is: one machine whose name is the settings' text."""

    def describe(self) -> Description:
        return Description("echo-python", "0.1.0", "{}")

    def list_machines(self, cursor) -> MachinePage:
        log.write(log.Level.INFO, "listing")
        progress.report(progress.Update("listing", 1, 2))
        before = clock.monotonic().nanoseconds
        after = clock.sleep(2).nanoseconds
        name = settings.get().json
        cpus = 1 if after > before else 0
        machine = Machine("echo", name, cpus, 0, Firmware.BIOS, PowerState.OFF, [], [], [])
        return MachinePage([machine], None)


Source = implementing(
    exports.Source, "begin_capture continue_capture list_disks open_disk verify_capture end_capture", unsupported
)
SourceBlocks = implementing(exports.SourceBlocks, "list_blocks", unsupported)
Power = implementing(exports.Power, "stop_machine continue_stop", unsupported)
TargetDisks = implementing(
    exports.TargetDisks, "begin_disk open_disk seal_disk continue_disk discard_disk", unsupported
)
SealedDisks = implementing(exports.SealedDisks, "begin_disk_from", unsupported)
TargetMachines = implementing(
    exports.TargetMachines,
    "check_machine define_machine start_machine continue_machine check_readiness stop_machine remove_machine",
    unsupported,
)
Ownership = implementing(exports.Ownership, "list_owned release_owned", unsupported)
