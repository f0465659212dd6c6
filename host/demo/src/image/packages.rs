//! The Debian packages that the guest is made of: found in the package lists, downloaded and unpacked, never installed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::{Path, PathBuf},
};

use crate::{
    error::{AtPath, DemoError},
    program,
};

/// Depends on the newest kernel package of its kind.
const KERNEL_META_PACKAGE: &str = "linux-image-cloud-amd64";

/// Needs no libraries.
const BUSYBOX: &str = "busybox-static";

/// Need libraries, which their dependencies name.
const LINKED: [&str; 2] = ["qemu-guest-agent", "sqlite3"];

/// How many packages the guest may come to be made of: far more than it is.
const PACKAGES_MAX: usize = 100;

/// A package of one version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Package {
    name: String,
    version: String,
}

impl fmt::Display for Package {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}={}", self.name, self.version)
    }
}

impl Package {
    /// The name of its folder; Debian's version characters are safe in a path but for the colon of an epoch.
    fn folder_name(&self) -> String {
        format!("{}_{}", self.name, self.version.replace(':', "%3a"))
    }
}

/// The packages, unpacked.
#[derive(Debug)]
pub(super) struct Unpacked {
    folders: BTreeMap<String, PathBuf>,
    /// `6.1.0-56-cloud-amd64`
    pub(super) kernel_release: String,
}

impl Unpacked {
    /// The folder of the kernel's package, with `boot` and `lib/modules` in it.
    pub(super) fn kernel(&self) -> Result<&Path, DemoError> {
        self.folder(&format!("linux-image-{}", self.kernel_release))
    }

    /// The kernel itself.
    pub(super) fn kernel_image(&self) -> Result<PathBuf, DemoError> {
        Ok(self.kernel()?.join("boot").join(format!("vmlinuz-{}", self.kernel_release)))
    }

    /// The statically linked BusyBox.
    pub(super) fn busybox(&self) -> Result<PathBuf, DemoError> {
        self.file(BUSYBOX, &["bin/busybox", "usr/bin/busybox"])
    }

    /// The programs that need libraries, each with its path in the guest.
    pub(super) fn linked_programs(&self) -> Result<[(PathBuf, &'static str); 2], DemoError> {
        Ok([
            (self.file("qemu-guest-agent", &["usr/sbin/qemu-ga"])?, "usr/sbin/qemu-ga"),
            (self.file("sqlite3", &["usr/bin/sqlite3"])?, "usr/bin/sqlite3"),
        ])
    }

    /// The dynamic loader of the unpacked C library. It resolves libraries as it will in the guest, without the guest.
    pub(super) fn loader(&self) -> Result<PathBuf, DemoError> {
        let name = "x86_64-linux-gnu/ld-linux-x86-64.so.2";
        self.file("libc6", &[&format!("lib/{name}"), &format!("usr/lib/{name}")])
    }

    /// Every folder that may hold libraries.
    pub(super) fn library_folders(&self) -> Vec<PathBuf> {
        let below = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
        let candidates = self.folders.values().flat_map(|folder| below.map(|below| folder.join(below)));
        candidates.filter(|folder| folder.is_dir()).collect()
    }

    fn folder(&self, package: &str) -> Result<&Path, DemoError> {
        let folder = self.folders.get(package).map(PathBuf::as_path);
        folder.ok_or_else(|| DemoError::NoPackage { package: package.to_owned() })
    }

    /// The first of these files that the package has: Debian moved some from `/` to `/usr`.
    fn file(&self, package: &str, candidates: &[&str]) -> Result<PathBuf, DemoError> {
        let folder = self.folder(package)?;
        let found = candidates.iter().map(|candidate| folder.join(candidate)).find(|path| path.is_file());
        found.ok_or_else(|| DemoError::NoPackage { package: format!("{package} with a file of {candidates:?}") })
    }
}

/// The packages that the lists of this machine offer now, sorted.
pub(super) fn resolve() -> Result<Vec<Package>, DemoError> {
    let meta = depends(&[KERNEL_META_PACKAGE])?;
    let kernel = meta.get(KERNEL_META_PACKAGE).and_then(|needed| needed.iter().find(|name| is_kernel(name)));
    let kernel = kernel.ok_or_else(|| DemoError::NoPackage { package: KERNEL_META_PACKAGE.to_owned() })?;
    let mut names = libraries(&depends(&LINKED)?);
    names.extend([kernel.clone(), BUSYBOX.to_owned()]);
    names.extend(LINKED.map(str::to_owned));
    let shown = program::output(program::command("apt-cache").args(["show", "--no-all-versions"]).args(&names))?;
    let versions = parse_versions(&shown);
    let find = |name: String| match versions.get(&name) {
        Some(version) => Ok(Package { name, version: version.clone() }),
        None => Err(DemoError::NoPackage { package: name }),
    };
    names.into_iter().map(find).collect()
}

fn is_kernel(name: &str) -> bool {
    name.strip_prefix("linux-image-").is_some_and(|release| release.starts_with(|first: char| first.is_ascii_digit()))
}

/// What each package needs, through all of them.
fn depends(packages: &[&str]) -> Result<BTreeMap<String, BTreeSet<String>>, DemoError> {
    let without = ["recommends", "suggests", "conflicts", "breaks", "replaces", "enhances"];
    let mut command = program::command("apt-cache");
    command.arg("depends").arg("--recurse").args(without.map(|kind| format!("--no-{kind}"))).args(packages);
    Ok(parse_depends(&program::output(&mut command)?))
}

/// Reads `apt-cache depends`: a line with a package's name, then its dependencies, indented.
fn parse_depends(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut package = String::new();
    for line in text.lines() {
        if !line.starts_with([' ', '|']) {
            package = line.trim().to_owned();
            graph.entry(package.clone()).or_default();
        } else if let Some((kind, name)) = line.trim_start_matches([' ', '|']).split_once(": ")
            && matches!(kind, "Depends" | "PreDepends")
            && !name.starts_with('<')
        {
            graph.entry(package.clone()).or_default().insert(name.trim().to_owned());
        }
    }
    graph
}

/// The library packages that [`LINKED`] lead to. Other dependencies are for installing (`dpkg`, `perl`), and the guest does
/// not install.
fn libraries(graph: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&str> = LINKED.to_vec();
    while let Some(package) = open.pop() {
        for name in graph.get(package).into_iter().flatten() {
            let library = name.starts_with("lib") || name.starts_with("zlib");
            if library && found.len() < PACKAGES_MAX && found.insert(name.clone()) {
                open.push(name);
            }
        }
    }
    found
}

/// Reads `Package` and `Version` from `apt-cache show`; the first record of a package is the newest.
fn parse_versions(text: &str) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    let mut package = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("Package: ") {
            package = Some(name.trim().to_owned());
        } else if let Some(version) = line.strip_prefix("Version: ")
            && let Some(name) = package.take()
        {
            versions.entry(name).or_insert_with(|| version.trim().to_owned());
        }
    }
    versions
}

/// Downloads and unpacks what is not in the cache yet.
pub(super) fn fetch(cache: &Path, wanted: &[Package], say: &mut dyn FnMut(&str)) -> Result<Unpacked, DemoError> {
    let parent = cache.join("packages");
    fs::create_dir_all(&parent).at("make", &parent)?;
    let missing: Vec<&Package> = wanted.iter().filter(|package| !parent.join(package.folder_name()).is_dir()).collect();
    if !missing.is_empty() {
        say(&format!("downloading {} Debian packages for the guest (about 35 MB, once)", missing.len()));
        download(cache, &parent, &missing)?;
    }
    let folder = |package: &Package| (package.name.clone(), parent.join(package.folder_name()));
    let kernel = wanted.iter().find(|package| is_kernel(&package.name));
    let release = kernel.and_then(|package| package.name.strip_prefix("linux-image-")).unwrap_or_default();
    let unpacked = Unpacked { folders: wanted.iter().map(folder).collect(), kernel_release: release.to_owned() };
    list_modules(&unpacked)?;
    Ok(unpacked)
}

fn download(cache: &Path, parent: &Path, missing: &[&Package]) -> Result<(), DemoError> {
    let work = tempfile::Builder::new().prefix("unfinished-").tempdir_in(cache).at("make a folder in", cache)?;
    let mut command = program::command("apt-get");
    command.args(["-q", "download"]).args(missing.iter().map(|package| package.to_string()));
    program::output(command.current_dir(work.path()))?;
    for package in missing {
        // apt names the file by the architecture too, which is `all` for some.
        let prefix = format!("{}_", package.folder_name());
        let entries = fs::read_dir(work.path()).at("list", work.path())?;
        let mut paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let matches = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix));
        let file = paths.find(matches).ok_or_else(|| DemoError::NoPackage { package: package.to_string() })?;
        let unpacked = work.path().join("unpacked");
        program::output(program::command("dpkg").arg("-x").arg(&file).arg(&unpacked))?;
        let folder = parent.join(package.folder_name());
        fs::rename(&unpacked, &folder).at("rename to", &folder)?;
    }
    Ok(())
}

/// Makes the list of what each kernel module needs, which the package leaves to its installation.
fn list_modules(unpacked: &Unpacked) -> Result<(), DemoError> {
    let kernel = unpacked.kernel()?;
    let list = kernel.join("lib/modules").join(&unpacked.kernel_release).join("modules.dep");
    if !list.is_file() {
        program::output(program::command("depmod").arg("-b").arg(kernel).arg(&unpacked.kernel_release))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_libraries_are_followed() {
        let text = "sqlite3\n  Depends: libc6\n |Depends: libreadline8\n  Depends: install-info\nlibreadline8\n  \
                    Depends: libtinfo6\n  Depends: readline-common\nreadline-common\n  Depends: libperl5.36\n\
                    qemu-guest-agent\n  PreDepends: zlib1g\n  Depends: <libvirtual>\n  Recommends: libnot\n";
        let found: Vec<String> = libraries(&parse_depends(text)).into_iter().collect();
        assert_eq!(found, ["libc6", "libreadline8", "libtinfo6", "zlib1g"]);
    }

    #[test]
    fn the_first_version_of_a_package_counts() {
        let text = "Package: a\nPriority: x\nVersion: 1:2-3\n\nPackage: b\nVersion: 4\n\nPackage: a\nVersion: 1\n";
        let versions = parse_versions(text);
        assert_eq!(versions.get("a").map(String::as_str), Some("1:2-3"));
        assert_eq!(versions.get("b").map(String::as_str), Some("4"));
    }

    #[test]
    fn a_meta_package_is_not_a_kernel() {
        assert!(is_kernel("linux-image-6.1.0-56-cloud-amd64"));
        assert!(!is_kernel("linux-image-cloud-amd64"));
    }
}
