//! `bitnet serve`: the engine over HTTP.

use crate::console::Console;
use crate::model_args::positive;
use crate::served_model::ServedModel;
use crate::service_args::ServiceArgs;
use crate::{machine, numbers};
use anyhow::Context;
use bitnet_server::{NamedModel, Server, ServerOptions, Tls};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// Serve the model over HTTP, for OpenAI clients and browsers
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) service: ServiceArgs,
    /// Another model to serve beside the first (repeatable); with several, requests name theirs and it is opened then.
    /// With options of its own: '{ model = "PATH", template = "FILE" }'
    #[arg(long, value_name = "[NAME=]PATH", help_heading = "Model")]
    pub(crate) also: Vec<ServedModel>,
    /// Memory that open models may take together, for example 6GiB [default: what the machine has available at start]
    #[arg(long, value_name = "SIZE", value_parser = numbers::size, help_heading = "Model")]
    pub(crate) memory_budget: Option<u64>,
    /// TOML file with options by their long names (`port = 8080`); BITNET_SERVE_PORT and the like go before it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Address to listen to; 0.0.0.0 is every network of this machine
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,
    /// Port; 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = 8080)]
    pub(crate) port: u16,
    /// Requests that may wait; more are refused with status 503
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = positive)]
    pub(crate) queue: usize,
    /// File with API keys, one per line; a client must show one [default: BITNET_API_KEYS, or none]
    #[arg(long, value_name = "FILE", help_heading = "Access")]
    api_key_file: Option<PathBuf>,
    /// PEM file with the server's certificate and those that vouch for it: HTTPS instead of HTTP
    #[arg(long, value_name = "FILE", help_heading = "Access")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// PEM file with the certificate's private key
    #[arg(long, value_name = "FILE", help_heading = "Access")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Origin whose pages may ask from a browser, for example https://example.org (repeatable; * is all)
    #[arg(long, value_name = "ORIGIN", help_heading = "Access")]
    pub(crate) cors_origin: Vec<String>,
    /// POST requests per minute that every key may send; without keys, all clients together [default: no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Limits")]
    pub(crate) rate_limit: Option<u32>,
    /// Bytes of a request's body
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 20, value_parser = positive, help_heading = "Limits")]
    max_body: usize,
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = positive, help_heading = "Limits")]
    max_connections: usize,
    /// Seconds that an answer may take
    #[arg(long, value_name = "SECONDS", default_value_t = 600, help_heading = "Limits")]
    time_limit: u32,
    /// Seconds that answers get to finish after Ctrl-C or SIGTERM
    #[arg(long, value_name = "SECONDS", default_value_t = 30, help_heading = "Limits")]
    drain_limit: u32,
}

pub(crate) fn run(args: &ServeArgs, console: &Console) -> anyhow::Result<()> {
    #[cfg(not(feature = "otel"))]
    warn_of_no_traces();
    let api_keys = args.api_keys()?;
    let tls = args.tls()?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let options = ServerOptions {
        queue: args.queue,
        tls,
        api_keys,
        cors_origins: args.cors_origin.clone(),
        rate_limit: args.rate_limit,
        max_body: args.max_body,
        max_connections: args.max_connections,
        time_limit: Duration::from_secs(args.time_limit.into()),
        drain_limit: Duration::from_secs(args.drain_limit.into()),
        #[cfg(feature = "otel")]
        telemetry: bitnet_server::Telemetry::from_env()?,
        ..ServerOptions::new(args.service.served.name())
    };
    let open = options.api_keys.is_empty();
    let address = (args.host.as_str(), args.port);
    let (server, names) = match (&args.also[..], args.memory_budget) {
        ([], None) => {
            let engine = args.service.engine(console)?;
            let template = args.service.template(&engine, console)?;
            let server = Server::bind(engine.into(), address, ServerOptions { template, ..options })?;
            (server, format!("{:?}", args.service.served.name()))
        }
        (others, budget) => {
            let budget = budget.or(machine::memory().1);
            let budget = budget.context("this machine does not say how much memory is free: give --memory-budget")?;
            let all = others.iter().map(|other| args.service.also(other));
            let all = std::iter::once(args.service.clone()).chain(all);
            let models = all.map(|one| one.named(console)).collect::<anyhow::Result<Vec<_>>>()?;
            let said = |model: &NamedModel| format!("{:?} ({})", model.name, numbers::bytes(model.bytes));
            let names = models.iter().map(said).collect::<Vec<_>>().join(", ");
            let names = format!("{names} in {}", numbers::bytes(budget));
            (Server::bind_models(models, budget, address, options)?, names)
        }
    };
    if open && !server.address().ip().is_loopback() {
        console.note("everybody who reaches this address may ask: --api-key-file FILE asks for keys");
    }
    if !open && scheme == "http" && !server.address().ip().is_loopback() {
        console.note("keys and texts cross the network as they are: --tls-cert and --tls-key encrypt them");
    }
    console.say(format!("listening on {scheme}://{} as {names}; Ctrl-C stops", server.address()));
    Ok(server.run()?)
}

impl ServeArgs {
    /// Certificate and key, if they are given. Not by clap's `requires`: one may stand in the file and one on the command line.
    fn tls(&self) -> anyhow::Result<Option<Tls>> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(certificates), Some(key)) => Ok(Some(Tls::open(certificates, key)?)),
            (None, None) => Ok(None),
            (Some(_), None) => anyhow::bail!("--tls-cert needs --tls-key, the file with its private key"),
            (None, Some(_)) => anyhow::bail!("--tls-key needs --tls-cert, the file with its certificate"),
        }
    }

    /// Keys of the file, or else of the environment. Asking for keys and getting none would open the door.
    fn api_keys(&self) -> anyhow::Result<Vec<String>> {
        let keys = |text: &str, separator: char| -> Vec<String> {
            text.split(separator).map(str::trim).filter(|key| !key.is_empty()).map(String::from).collect()
        };
        if let Some(path) = &self.api_key_file {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            let keys = keys(&text, '\n');
            anyhow::ensure!(!keys.is_empty(), "{}: there is no key in it", path.display());
            return Ok(keys);
        }
        match std::env::var("BITNET_API_KEYS") {
            Ok(text) => {
                let keys = keys(&text, ',');
                anyhow::ensure!(!keys.is_empty(), "BITNET_API_KEYS is set, but there is no key in it");
                Ok(keys)
            }
            Err(std::env::VarError::NotPresent) => Ok(Vec::new()),
            Err(error) => Err(error).context("BITNET_API_KEYS"),
        }
    }
}

/// Who asks for traces must not wait for them in vain.
#[cfg(not(feature = "otel"))]
fn warn_of_no_traces() {
    let asks = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if let Some(name) = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"].into_iter().find(asks) {
        tracing::warn!("{name} is set, but this program was built without the feature `otel`: no traces are sent");
    }
}
