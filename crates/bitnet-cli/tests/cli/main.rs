//! The program as scripts see it: arguments in, standard output, standard error and exit status out.
//!
//! Tests run on the embedded model wherever they can, so that the project tests itself on a clean clone. Those that
//! compare with other engines read `../shared` beside the checkout and say SKIPPED without it.

#[cfg(feature = "serve")]
mod batch;
mod chat;
mod convert;
mod damage;
mod draft;
mod eval;
mod inspect;
mod measure;
#[cfg(feature = "serve")]
mod packaging;
mod pipes;
mod program;
#[cfg(feature = "pull")]
mod pull;
mod receipt;
mod run;
#[cfg(feature = "serve")]
mod serve;
#[cfg(feature = "serve")]
mod telemetry;
mod tokens;
mod track;
#[cfg(feature = "train")]
mod train;
mod usage;
