//! Says on which kind of machine something was measured or run. No name of a host, a user or a folder.

use std::fs;
use std::num::NonZero;
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::process;

/// Processors, memory, acceleration, system.
pub fn described() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let kernel = process::answer(Command::new("uname").arg("--kernel-release")).unwrap_or_default();
    format!(
        "{} cores ({}), {} of memory, {}, {}, Linux {}",
        thread::available_parallelism().map_or(1, NonZero::get),
        after_colon(&read("/proc/cpuinfo"), "model name"),
        memory(&read("/proc/meminfo")),
        if Path::new("/dev/kvm").exists() { "KVM" } else { "no KVM" },
        os_name(&read("/etc/os-release")),
        kernel.trim(),
    )
}

/// The value of the first line `key : value`.
fn after_colon(text: &str, key: &str) -> String {
    let found = text.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.trim() == key);
    found.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
}

fn memory(meminfo: &str) -> String {
    let total = after_colon(meminfo, "MemTotal");
    let kibibytes: Option<u64> = total.strip_suffix(" kB").and_then(|count| count.parse().ok());
    kibibytes.map_or_else(|| "unknown".to_owned(), |kibibytes| format!("{} GiB", (kibibytes + (1 << 19)) >> 20))
}

fn os_name(os_release: &str) -> String {
    let name = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("unknown").trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_described_from_what_linux_says() {
        assert_eq!(after_colon("processor\t: 0\nmodel name\t: AMD EPYC\n", "model name"), "AMD EPYC");
        assert_eq!(after_colon("", "model name"), "unknown");
        assert_eq!(memory("MemTotal:       24676880 kB\n"), "24 GiB");
        assert_eq!(memory("MemTotal: lots\n"), "unknown");
        assert_eq!(
            os_name("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
            "Debian GNU/Linux 12 (bookworm)"
        );
    }
}
