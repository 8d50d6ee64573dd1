//! Images are fetched as soon as a task definition names them, so that the first task finds them here.
//!
//! Public ones only: what wants credentials is pulled under the execution role, and only a task has that.

use std::sync::Arc;

use ferrogate_ecs::RegisteredDefinition;
use ferrogate_image::{Auth, ImageRef, ImageStore, Platform};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

/// Until the service is gone. What is missed or does not fit into the queue is pulled by the first task.
pub(crate) async fn run(mut registered: Receiver<RegisteredDefinition>, images: Arc<ImageStore>) {
    loop {
        let definition = match registered.recv().await {
            Ok(definition) => definition,
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return,
        };
        let platform =
            if definition.architecture == "arm64" { Platform::LinuxArm64 } else { Platform::LinuxAmd64 };
        let public = definition
            .images
            .iter()
            .filter(|image| image.credentials_parameter.is_none() && !image.image.contains(".dkr.ecr."));
        for image in public {
            let Ok(reference) = ImageRef::parse(&image.image) else { continue };
            if let Err(full) = images.prefetch(reference, Auth::Anonymous, platform) {
                tracing::info!(%full, image = image.image, "not pulled ahead");
            }
        }
    }
}
