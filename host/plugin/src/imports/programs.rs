//! Programs of the operator's.

use std::{path::Path, sync::Arc};

use super::{blocking, shortened};
use crate::{
    Access,
    judge::Judge,
    programs::{Completion as Ran, FillError, PathResolver, RunError, run},
    refusal::Wanted,
    state::CallState,
    v0_1::host::{
        errors::HostError,
        programs::{Completion, Host, Repetition, Slot},
    },
};

/// Resolves the paths in slots: below a folder that is granted read-write.
struct Granted(Judge);

/// Why a path cannot be used.
enum PathError {
    /// The component's call ends.
    Refused(wasmtime::Error),
    /// The component hears of it.
    Told(HostError),
}

impl PathResolver for Granted {
    type Error = PathError;

    async fn resolve(&self, path: &str) -> Result<String, FillError<PathError>> {
        let told = |error| FillError::Path(PathError::Told(error));
        let refused = |error| FillError::Path(PathError::Refused(error));
        let place = self.0.granted_place(path, Access::ReadWrite).map_err(refused)?.map_err(told)?;
        let resolved = blocking(move || place.resolve_or_place()).await.map_err(told)?;
        let resolved = match resolved {
            Ok(resolved) => resolved,
            Err(error) => return Err(self.0.folder_error(path, Access::ReadWrite, error).map_or_else(refused, told)),
        };
        let text = Path::to_str(&resolved).map(str::to_owned);
        text.ok_or_else(|| FillError::Invalid(format!("the path {} is not UTF-8", resolved.display())))
    }
}

fn pairs(slots: Vec<Slot>) -> Vec<(String, String)> {
    slots.into_iter().map(|Slot { name, value }| (name, value)).collect()
}

impl Host for CallState {
    async fn run(
        &mut self,
        template: String,
        slots: Vec<Slot>,
        repetitions: Vec<Repetition>,
    ) -> wasmtime::Result<Result<Completion, HostError>> {
        if !self.bound.wants().programs.contains(&template) {
            return Err(self.judge().not_in_manifest(Wanted::Program { template: shortened(&template) }));
        }
        let bound = Arc::clone(&self.bound);
        let Some(chosen) = bound.programs.get(&template) else {
            let told = format!(
                "the operator wrote no program template: add [sites.{}.programs.{}.{template}] to the configuration",
                bound.site, bound.mode
            );
            return Ok(Err(HostError::NotFound(told)));
        };
        let repetitions = repetitions
            .into_iter()
            .map(|Repetition { name, items }| (name, items.into_iter().map(pairs).collect()))
            .collect();
        self.waiting_for = Some("programs.run");
        let arguments = match chosen.fill(pairs(slots), repetitions, &Granted(self.judge())).await {
            Ok(arguments) => arguments,
            Err(FillError::Invalid(sentence)) => {
                return Ok(Err(HostError::Invalid(format!("template {template}: {sentence}"))));
            }
            Err(FillError::Path(PathError::Told(error))) => return Ok(Err(error)),
            Err(FillError::Path(PathError::Refused(error))) => return Err(error),
        };
        let (clock, entropy) = (Arc::clone(bound.clock()), Arc::clone(bound.entropy()));
        let ran = run(&chosen.program, &arguments, chosen.timeout, &*clock, &*entropy).await;
        self.waiting_for = None;
        Ok(match ran {
            Ok(Ran { exit_code, output, errors }) => Ok(Completion { exit_code, output, errors }),
            Err(error @ RunError::NoProgram(_)) => Err(HostError::NotFound(error.to_string())),
            Err(error @ RunError::TimedOut { .. }) => Err(HostError::TimedOut(error.to_string())),
            Err(error @ RunError::System { .. }) => Err(HostError::Failed(error.to_string())),
        })
    }
}
