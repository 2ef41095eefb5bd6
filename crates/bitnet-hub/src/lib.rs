//! Models from a hub: found, downloaded, checked, kept, listed and removed.
//!
//! Downloads go on where they broke off and count only when their hash is right. They lie where Hugging Face's own tools
//! look (`HF_HOME`), so that a model is on the disk once. Looking up what is there never asks the network.
//!
//! ```no_run
//! use bitnet_hub::{Hub, Location};
//!
//! let location: Location = "microsoft/bitnet-b1.58-2B-4T-gguf".parse()?;
//! let path = Hub::from_env()?.pull(&location, "main", &mut |_| true)?;
//! println!("{}", path.display());
//! # Ok::<(), bitnet_hub::HubError>(())
//! ```

#![forbid(unsafe_code)]

mod cache;
mod digest;
mod download;
mod error;
mod hub;
mod location;
mod selection;
mod tls;

pub use cache::{Cache, Stored};
pub use download::Progress;
pub use error::HubError;
pub use hub::Hub;
pub use location::Location;
