//! Disks behind an NBD server.

use wasmtime::component::Resource;

use super::{resolved_socket, shortened};
use crate::{
    HostPort, NbdAddress, NbdPattern, TransportGrant,
    grants::path_rule,
    limits::EXPORT_NAME_BYTES_MAX,
    refusal::Wanted,
    state::CallState,
    v0_1::host::{
        errors::HostError,
        nbd::{Address, ExportedDisk, Host},
    },
};

impl Host for CallState {
    async fn open(&mut self, disk: ExportedDisk) -> wasmtime::Result<Result<Resource<TransportGrant>, HostError>> {
        let ExportedDisk { address, name: export, read_only } = disk;
        if export.len() > EXPORT_NAME_BYTES_MAX || export.contains('\0') {
            return Ok(Err(HostError::Invalid(
                "an export's name is at most 4,096 bytes, none of them zero".to_owned(),
            )));
        }
        let (address, wanted) = match address {
            Address::Unix(path) => {
                if let Some(rule) = path_rule(&path) {
                    let told = format!("the path {:?} cannot be used: {rule}", shortened(&path));
                    return Ok(Err(HostError::Invalid(told)));
                }
                let resolved = self.within("nbd.open", async { Ok(resolved_socket(&path).await) }).await;
                let resolved = match resolved {
                    Ok(resolved) => resolved,
                    Err(error) => return Ok(Err(error)),
                };
                let Ok(pattern) = resolved.to_string_lossy().parse() else {
                    return Ok(Err(HostError::Invalid(format!("the path {:?} cannot be used", shortened(&path)))));
                };
                (NbdAddress::Unix(resolved), NbdPattern::Unix(pattern))
            }
            Address::Tcp(address) => match HostPort::new(&address.host, address.port) {
                Ok(address) => (NbdAddress::Tcp(address.clone()), NbdPattern::Tcp(address)),
                Err(error) => return Ok(Err(HostError::Invalid(error.to_string()))),
            },
        };
        let wanted = || Wanted::Nbd { address: wanted.clone() };
        if !self.bound.wants().nbd {
            return Err(self.judge().not_in_manifest(wanted()));
        }
        let granted = self.bound.grants.nbd.iter().any(|pattern| match (pattern, &address) {
            (NbdPattern::Unix(pattern), NbdAddress::Unix(path)) => pattern.matches(path),
            (NbdPattern::Tcp(granted), NbdAddress::Tcp(address)) => granted == address,
            _ => false,
        });
        if !granted {
            return Err(self.judge().not_granted(wanted()));
        }
        Ok(self.push(TransportGrant::Nbd { address, export, read_only }))
    }
}
