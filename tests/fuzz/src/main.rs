//! The program that gives mutated bytes to the decoders of `farshore_vault::fuzzing`, one target at a time.
//!
//! `cargo xtask fuzz` builds and runs it. It is one program for all targets, named in `FARSHORE_FUZZ_TARGET`, because linking it is
//! most of what building it takes. libFuzzer's own arguments are those of the command line; with `FARSHORE_FUZZ_SEEDS` it writes the
//! inputs to begin with into that folder, and ends.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
mod fuzz {
    use std::{env, fs, path::Path, process::exit, sync::OnceLock};

    use farshore_vault::fuzzing::{World, targets};
    use libfuzzer_sys::fuzz_target;

    struct Chosen {
        world: World,
        target: String,
    }

    static CHOSEN: OnceLock<Chosen> = OnceLock::new();

    fn choose() -> Chosen {
        let vault = env::var_os("FARSHORE_FUZZ_VAULT").expect("FARSHORE_FUZZ_VAULT says where the golden vault lies");
        let world = World::load(Path::new(&vault));
        if let Some(folder) = env::var_os("FARSHORE_FUZZ_SEEDS") {
            for target in targets() {
                let folder = Path::new(&folder).join(target);
                fs::create_dir_all(&folder).expect("a folder for the seeds");
                for (number, seed) in world.seeds(target).iter().enumerate() {
                    world.run(target, seed);
                    fs::write(folder.join(format!("seed-{number}")), seed).expect("the seed is written");
                }
            }
            exit(0);
        }
        let target = env::var("FARSHORE_FUZZ_TARGET").unwrap_or_default();
        if !targets().any(|known| known == target) {
            eprintln!("FARSHORE_FUZZ_TARGET must be one of: {}", targets().collect::<Vec<_>>().join(", "));
            exit(2);
        }
        Chosen { world, target }
    }

    fuzz_target!(init: { CHOSEN.get_or_init(choose); }, |input: &[u8]| {
        let Chosen { world, target } = CHOSEN.get_or_init(choose);
        world.run(target, input);
    });
}

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("this program was built without --cfg fuzzing: `cargo xtask fuzz` builds and runs it");
    std::process::exit(2);
}
