//! Pulls one image into an empty directory and says how long that took: `pull REFERENCE DIRECTORY`.

use std::time::Instant;

use ferrogate_image::{Auth, Config, ImageRef, ImageStore, Platform};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(reference), Some(dir)) = (arguments.next(), arguments.next()) else {
        return Err("usage: pull REFERENCE DIRECTORY".into());
    };
    let store = ImageStore::open(dir.as_ref(), Config::default())?;
    let reference = ImageRef::parse(&reference)?;
    let began = Instant::now();
    let image = store.pull(&reference, Auth::Anonymous, Platform::host(), |_| {}).await?;
    let (layers, bytes, unpacked) = (image.layers.len(), image.size_bytes, image.unpacked_bytes);
    println!("{} ms: {layers} layers, {bytes} bytes, {unpacked} unpacked", began.elapsed().as_millis());
    Ok(())
}
