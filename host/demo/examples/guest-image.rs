//! Builds the guest's image, or finds it in the cache, and prints where it is.
fn main() -> Result<(), farshore_demo::DemoError> {
    let image = farshore_demo::image::prepare(&farshore_demo::image::default_cache(), &mut |line| eprintln!("{line}"))?;
    println!("{}", image.disk.display());
    Ok(())
}
