//! `k1ops metrics`.

use super::Context;
use crate::adapters::http_server::{Page, Server};
use crate::error::Result;
use crate::exit_code::ExitCode;
use crate::metrics::{gather, write_textfile};
use crate::stack::Stack;
use hyper::StatusCode;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// How long an answer is good for. Looking reads the manifest of every archive.
const FRESH: Duration = Duration::from_secs(10);

/// Tell a monitoring system how the stack and its backups are
///
/// Prints metrics in the text format of Prometheus.
#[derive(Debug, clap::Args)]
pub struct MetricsArgs {
    /// Write them into this file at one stroke, for node exporter's textfile collector
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(subcommand)]
    asked: Option<Asked>,
}

#[derive(Debug, clap::Subcommand)]
enum Asked {
    /// Answer scrapes at /metrics until interrupted
    Serve(ServeArgs),
}

#[derive(Debug, clap::Args)]
struct ServeArgs {
    /// Listen here; there is no login, so that others than this host should not reach it
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9469")]
    listen: SocketAddr,
}

/// Prints, writes or serves.
pub(super) async fn run(args: &MetricsArgs, context: &Context) -> Result<ExitCode> {
    let stack = context.stack()?;
    if let Some(Asked::Serve(args)) = &args.asked {
        return serve(args, stack, context).await;
    }
    let metrics = match &args.output {
        Some(file) => write_textfile(&stack, file).await?,
        None => gather(&stack).await?,
    };
    let text = metrics.as_textfile()?;
    context.ui.result(&metrics, |_, out| match &args.output {
        Some(file) => out.push_str(&format!("wrote {}\n", file.display())),
        None => out.push_str(&text),
    })?;
    Ok(ExitCode::Done)
}

async fn serve(args: &ServeArgs, stack: Stack, context: &Context) -> Result<ExitCode> {
    let server = Server::listen(args.listen).await?;
    let address = server.address()?;
    let events = context.events();
    events.note(format!("metrics are at http://{address}/metrics"));
    if !address.ip().is_loopback() {
        events.warning("there is no login: whoever reaches this address can read the metrics");
    }
    let looked = Arc::new(Looked {
        stack,
        page: Mutex::new(None),
    });
    let page = move |path: String| {
        let looked = looked.clone();
        async move {
            match path.as_str() {
                "/metrics" => looked.page().await,
                _ => Page::plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n"),
            }
        }
    };
    server.serve(page, &context.interrupt).await?;
    let ended = serde_json::json!({ "served": address.to_string() });
    context.ui.result(&ended, |_, text| {
        text.push_str(&format!("served at {address}\n"));
    })?;
    Ok(ExitCode::Done)
}

/// What was found last, and when.
struct Looked {
    stack: Stack,
    page: Mutex<Option<(Instant, Page)>>,
}

impl Looked {
    async fn page(&self) -> Page {
        let mut last = self.page.lock().await;
        if let Some((at, page)) = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            tracing::debug!(age = ?at.elapsed(), "answered from memory");
            return page.clone();
        }
        let page = match Box::pin(gather(&self.stack)).await.and_then(|m| m.encode()) {
            Ok(text) => Page {
                status: StatusCode::OK,
                content_type: "application/openmetrics-text; version=1.0.0; charset=utf-8",
                text,
            },
            // A scrape that fails is what the monitoring system alarms of.
            Err(error) => Page::plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        };
        *last = Some((Instant::now(), page.clone()));
        page
    }
}
