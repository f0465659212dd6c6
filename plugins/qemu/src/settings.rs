//! What the operator says about a site of QEMU machines.

use serde::Deserialize;

use crate::{
    error::{PlatformError, Result, while_doing},
    graph::DISKS_PER_MACHINE_MAX,
    ports::Host,
};

/// The JSON Schema of [`Settings`], with a description for every property.
pub const SCHEMA: &str = include_str!("settings.schema.json");

const FLEECE_LIMIT_MIB_DEFAULT: u64 = 4096;
/// A unix socket's path has at most 107 bytes; what the adapter adds to the folder has at most 75.
const SOCKET_PATH_BYTES_MAX: usize = 107;
const MACHINES_MAX: usize = 10_000;

/// The settings of a site.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// The machines that can be protected.
    #[serde(default)]
    pub machines: Vec<MachineSettings>,
    /// Where QEMU makes sockets.
    pub socket_folder: Option<String>,
    /// Where QEMU keeps, during a capture, what the guest overwrites.
    pub fleece_folder: Option<String>,
    /// How much of it is kept for each disk.
    pub fleece_limit_mib: Option<u64>,
    /// Where recovered machines live.
    pub machine_folder: Option<String>,
}

/// A machine that can be protected.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct MachineSettings {
    /// What Farshore calls it.
    pub name: String,
    /// The control socket.
    pub qmp: String,
    /// The guest agent's socket.
    pub agent: Option<String>,
    /// Disks that are left out.
    #[serde(default)]
    pub exclude_disks: Vec<String>,
    /// Where its disks are while its QEMU is not there. Without them it is not known to be off.
    #[serde(default)]
    pub images: Vec<ImageSettings>,
}

/// Where a disk of a machine that is off is.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ImageSettings {
    /// The disk's id, as the running machine tells it.
    pub disk: String,
    /// The image file.
    pub path: String,
    /// Its format.
    pub format: ImageFormat,
}

/// The format of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageFormat {
    /// QEMU's own, which can keep bitmaps.
    Qcow2,
    /// The disk's bytes.
    Raw,
}

impl ImageFormat {
    /// What QEMU calls it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// A name that is safe in a path.
fn is_plain_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=64).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain)
}

fn settings_error(text: String) -> PlatformError {
    PlatformError::Settings(text)
}

fn check_path(path: &str) -> Result<()> {
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(settings_error(format!("{path:?} is not an absolute path without `..`")));
    }
    Ok(())
}

impl MachineSettings {
    fn check_images(&self) -> Result<()> {
        let name = &self.name;
        if self.images.len() > DISKS_PER_MACHINE_MAX {
            return Err(settings_error(format!("machine {name} has more than {DISKS_PER_MACHINE_MAX} images")));
        }
        for (index, ImageSettings { disk, path, .. }) in self.images.iter().enumerate() {
            if disk.is_empty() {
                return Err(settings_error(format!("an image of machine {name} does not say which disk it is")));
            }
            if self.images.iter().take(index).any(|other| other.disk == *disk) {
                return Err(settings_error(format!("machine {name} has two images of its disk {disk}")));
            }
            if self.exclude_disks.contains(disk) {
                return Err(settings_error(format!("machine {name} excludes its disk {disk}, and has an image of it")));
            }
            check_path(path)?;
            if path.contains(',') {
                return Err(settings_error(format!("{path:?} has a comma, with which QEMU ends an option")));
            }
        }
        Ok(())
    }
}

impl Settings {
    /// Reads and checks the settings.
    ///
    /// # Errors
    /// `settings` with what is wrong.
    pub fn load(host: &dyn Host) -> Result<Self> {
        let json = host.settings().map_err(|error| while_doing("reading the site's settings", &error))?;
        let settings: Self = serde_json::from_str(&json).map_err(|error| settings_error(error.to_string()))?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<()> {
        if self.machines.len() > MACHINES_MAX {
            return Err(settings_error(format!("there are more than {MACHINES_MAX} machines in one site")));
        }
        for (index, machine) in self.machines.iter().enumerate() {
            let name = &machine.name;
            if !is_plain_name(name) {
                let rule = "use 1 to 64 letters, digits, dots, dashes and underscores, not beginning with a dot";
                return Err(settings_error(format!("{name:?} cannot name a machine: {rule}")));
            }
            if self.machines.iter().take(index).any(|other| other.name == *name) {
                return Err(settings_error(format!("two machines are called {name}")));
            }
            machine.check_images()?;
        }
        let paths = [&self.socket_folder, &self.fleece_folder, &self.machine_folder].into_iter().flatten();
        let sockets = self.machines.iter().flat_map(|machine| [Some(&machine.qmp), machine.agent.as_ref()]).flatten();
        for path in paths.chain(sockets) {
            check_path(path)?;
        }
        if self.fleece_limit_mib.is_some_and(|limit| !(16..=1 << 30).contains(&limit)) {
            return Err(settings_error("fleece-limit-mib is less than 16 or more than 1,073,741,824".into()));
        }
        Ok(())
    }

    /// The machine of this name.
    ///
    /// # Errors
    /// `not-found` when the settings name no such machine.
    pub fn machine(&self, name: &str) -> Result<&MachineSettings> {
        let found = self.machines.iter().find(|machine| machine.name == name);
        found.ok_or_else(|| PlatformError::NotFound(format!("the site's settings name no machine {name}")))
    }

    /// The path of a socket that QEMU makes.
    ///
    /// # Errors
    /// `settings` when there is no folder for it, or its path would be too long for a socket.
    pub fn socket_path(&self, name: &str) -> Result<String> {
        let path = format!("{}/{name}", required("socket-folder", self.socket_folder.as_ref())?);
        if path.len() > SOCKET_PATH_BYTES_MAX {
            let text = format!("the socket path {path} has more than {SOCKET_PATH_BYTES_MAX} bytes");
            return Err(settings_error(format!("{text}: choose a shorter socket-folder")));
        }
        Ok(path)
    }

    /// The folder of the fleece files.
    ///
    /// # Errors
    /// `settings` when it is not set.
    pub fn fleece_folder(&self) -> Result<&str> {
        required("fleece-folder", self.fleece_folder.as_ref())
    }

    /// The folder of the recovered machines.
    ///
    /// # Errors
    /// `settings` when it is not set.
    pub fn machine_folder(&self) -> Result<&str> {
        required("machine-folder", self.machine_folder.as_ref())
    }

    /// The most bytes that a fleece file may have.
    pub fn fleece_limit_bytes(&self) -> u64 {
        self.fleece_limit_mib.unwrap_or(FLEECE_LIMIT_MIB_DEFAULT).saturating_mul(1 << 20)
    }
}

fn required<'s>(name: &str, value: Option<&'s String>) -> Result<&'s str> {
    let trimmed = value.map(|path| path.trim_end_matches('/'));
    trimmed
        .ok_or_else(|| settings_error(format!("`{name}` is needed for this, and the site's settings do not have it")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(json: &str) -> Result<Settings> {
        let settings: Settings = serde_json::from_str(json).map_err(|error| settings_error(error.to_string()))?;
        settings.check().map(|()| settings)
    }

    #[test]
    fn what_cannot_work_is_named() {
        let machine = |name: &str| format!(r#"{{"name":{name:?},"qmp":"/run/a"}}"#);
        let twice = format!(r#"{{"machines":[{0},{0}]}}"#, machine("a"));
        let cases = [
            (twice.as_str(), "two machines are called a"),
            (r#"{"machines":[{"name":"../x","qmp":"/run/a"}]}"#, "cannot name a machine"),
            (r#"{"machines":[{"name":"a","qmp":"run/a"}]}"#, "absolute"),
            (r#"{"fleece-folder":"/a/../b"}"#, "absolute"),
            (r#"{"fleece-limit-mib":1}"#, "fleece-limit-mib"),
            (r#"{"fleece-limit":1}"#, "unknown field `fleece-limit`"),
        ];
        for (json, expected) in cases {
            let error = load(json).expect_err(json);
            assert!(matches!(&error, PlatformError::Settings(text) if text.contains(expected)), "{json}: {error:?}");
        }
    }

    #[test]
    fn images_that_cannot_be_served_are_named() {
        let image = |disk: &str, path: &str| format!(r#"{{"disk":{disk:?},"path":{path:?},"format":"raw"}}"#);
        let fine = image("vd0", "/a.raw");
        let cases = [
            (format!("{fine},{fine}"), "two images of its disk vd0"),
            (image("", "/a.raw"), "does not say which disk"),
            (image("scratch", "/a.raw"), "excludes its disk scratch"),
            (image("vd0", "a.raw"), "absolute"),
            (image("vd0", "/a/../b.raw"), "absolute"),
            (image("vd0", "/a,b.raw"), "comma"),
            (fine.replace("raw\"}", "vmdk\"}"), "unknown variant `vmdk`"),
            (r#"{"disk":"vd0","path":"/a.raw"}"#.to_owned(), "missing field `format`"),
            (
                (0..257).map(|index| image(&format!("vd{index}"), "/a.raw")).collect::<Vec<_>>().join(","),
                "more than 256",
            ),
        ];
        let settings = |images: &str| {
            format!(r#"{{"machines":[{{"name":"a","qmp":"/run/a","exclude-disks":["scratch"],"images":[{images}]}}]}}"#)
        };
        load(&settings(&fine)).expect("one image of one disk");
        for (images, expected) in cases {
            let error = load(&settings(&images)).expect_err(&images);
            assert!(matches!(&error, PlatformError::Settings(text) if text.contains(expected)), "{images}: {error:?}");
        }
    }

    #[test]
    fn a_missing_folder_and_a_long_socket_path_are_named() {
        let settings = load("{}").expect("an empty table is fine");
        assert!(
            matches!(settings.fleece_folder(), Err(PlatformError::Settings(text)) if text.contains("fleece-folder"))
        );
        let settings = load(&format!(r#"{{"socket-folder":"/{}"}}"#, "x".repeat(100))).expect("a long folder");
        assert!(
            matches!(settings.socket_path("orders.nbd"), Err(PlatformError::Settings(text)) if text.contains("107"))
        );
    }

    #[test]
    fn the_schema_describes_every_property() {
        fn walk(schema: &serde_json::Value, count: &mut usize) {
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                assert!(property["description"].as_str().is_some_and(|text| text.len() > 20), "{name}");
                *count += 1;
                walk(&property["items"], count);
            }
        }
        let mut count = 0;
        walk(&serde_json::from_str(SCHEMA).expect("the schema is JSON"), &mut count);
        assert_eq!(count, 13);
    }
}
