//! HTTP with JSON, for the sources that are servers.
//!
//! Every request has a connection of its own: a few in a minute are made, and one that was kept would fail first if its server has been
//! away. Certificates are read again when their files have changed.

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cni_plugin::state;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::http::Response;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

/// For a connection, and for the handshake of TLS with it.
const CONNECT: Duration = Duration::from_secs(5);
/// For an answer, and between any two parts of it.
pub const ANSWER: Duration = Duration::from_secs(10);
/// The longest file with certificates or a token.
const FILE_MAX: u64 = 1 << 20;
/// The longest message of a server that is repeated.
const MESSAGE_MAX: u64 = 400;

/// The files of a connection with TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Who may sign the server's certificate.
    pub ca: Option<PathBuf>,
    /// The client's certificate, and who has signed it,
    pub cert: Option<PathBuf>,
    /// and its key.
    pub key: Option<PathBuf>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// A file can't be read, or isn't what it should be.
    #[error("{}: {why}", .path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// No connection, or one that broke off.
    #[error("{url}: {source}")]
    Failed {
        /// What was asked for.
        url: String,
        /// The reason.
        source: Box<ureq::Error>,
    },
    /// The server refuses.
    #[error("{url}: the server says {code}: {message}")]
    Refused {
        /// What was asked for.
        url: String,
        /// The status.
        code: u16,
        /// What the server says.
        message: String,
    },
    /// The answer isn't what is expected, or has broken off.
    #[error("{url}: {source}")]
    Answer {
        /// What was asked for.
        url: String,
        /// What is wrong.
        source: serde_json::Error,
    },
}

impl HttpError {
    /// The status of a server that refuses.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// A client with the certificates that the files have had.
#[derive(Debug)]
pub struct Client {
    tls: Tls,
    files: [Option<Vec<u8>>; 3],
    agent: Agent,
}

/// Reads a file that the configuration names.
///
/// # Errors
/// [`HttpError::File`].
pub fn read(path: &Path) -> Result<Vec<u8>, HttpError> {
    state::read_config(path, FILE_MAX)
        .map_err(|error| HttpError::File { path: path.to_owned(), why: error.to_string() })
}

impl Client {
    /// Reads the files.
    ///
    /// # Errors
    /// [`HttpError::File`].
    pub fn open(tls: &Tls) -> Result<Self, HttpError> {
        let files = files(tls)?;
        let agent = agent(tls, &files)?;
        Ok(Self { tls: tls.clone(), files, agent })
    }

    /// Reads the files again.
    ///
    /// # Errors
    /// [`HttpError::File`].
    pub fn refresh(&mut self) -> Result<(), HttpError> {
        let files = files(&self.tls)?;
        if files != self.files {
            self.agent = agent(&self.tls, &files)?;
            self.files = files;
        }
        Ok(())
    }

    /// Posts a document, and reads the answer.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn post<T: DeserializeOwned>(&self, url: &str, document: &Value) -> Result<T, HttpError> {
        let body = self.post_for_stream(url, document, ANSWER)?;
        serde_json::from_reader(body).map_err(|source| HttpError::Answer { url: url.to_owned(), source })
    }

    /// Posts a document, and returns the answer to be read while it comes: `patience` is the longest silence within it.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn post_for_stream(
        &self,
        url: &str,
        document: &Value,
        patience: Duration,
    ) -> Result<impl Read + use<>, HttpError> {
        let request = self.agent.post(url).header("Content-Type", "application/json");
        let request = request.config().timeout_per_read(Some(patience)).build();
        answer(url, request.send(document.to_string()))
    }

    /// Gets what is there, to be read while it comes. A bearer token goes with the request.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn get(&self, url: &str, token: Option<&str>, patience: Duration) -> Result<impl Read + use<>, HttpError> {
        let mut request = self.agent.get(url).header("Accept", "application/json");
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        answer(url, request.config().timeout_per_read(Some(patience)).build().call())
    }
}

fn answer(url: &str, answer: Result<Response<Body>, ureq::Error>) -> Result<impl Read + use<>, HttpError> {
    let answer = answer.map_err(|source| HttpError::Failed { url: url.to_owned(), source: Box::new(source) })?;
    let code = answer.status().as_u16();
    let body = answer.into_body().into_reader();
    if code == 200 {
        return Ok(BufReader::new(body));
    }
    let mut message = Vec::new();
    // As much of it as there is.
    let _ = body.take(MESSAGE_MAX).read_to_end(&mut message);
    let message = String::from_utf8_lossy(&message).trim().replace('\n', " ");
    Err(HttpError::Refused { url: url.to_owned(), code, message })
}

fn files(tls: &Tls) -> Result<[Option<Vec<u8>>; 3], HttpError> {
    let one = |path: &Option<PathBuf>| path.as_deref().map(read).transpose();
    Ok([one(&tls.ca)?, one(&tls.cert)?, one(&tls.key)?])
}

fn agent(tls: &Tls, files: &[Option<Vec<u8>>; 3]) -> Result<Agent, HttpError> {
    let [ca, cert, key] = files;
    let mut config = TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&certificates(tls.ca.as_ref(), ca.as_deref())?))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
    if let (Some(path), Some(key)) = (&tls.key, key) {
        let key = PrivateKey::from_pem(key)
            .map_err(|error| HttpError::File { path: path.clone(), why: format!("no private key in PEM: {error}") })?;
        let chain = certificates(tls.cert.as_ref(), cert.as_deref())?;
        config = config.client_cert(Some(ClientCert::new_with_certs(&chain, key)));
    }
    let config = Agent::config_builder()
        .tls_config(config.build())
        // A proxy of the environment is for other servers than the cluster's own.
        .proxy(None)
        .max_redirects(0)
        .http_status_as_error(false)
        .max_idle_connections(0)
        .timeout_connect(Some(CONNECT))
        .timeout_send_request(Some(ANSWER))
        .timeout_send_body(Some(ANSWER))
        .timeout_recv_response(Some(ANSWER))
        .build();
    Ok(config.new_agent())
}

fn certificates(path: Option<&PathBuf>, content: Option<&[u8]>) -> Result<Vec<Certificate<'static>>, HttpError> {
    let (Some(path), Some(content)) = (path, content) else { return Ok(Vec::new()) };
    let found: Vec<Certificate<'static>> = parse_pem(content)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if found.is_empty() {
        return Err(HttpError::File { path: path.clone(), why: "no certificate in PEM".to_owned() });
    }
    Ok(found)
}
