//! etcd's JSON gateway: keys and values in base64, 64-bit numbers as text.

use std::io::{self, Read};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::settings;
use crate::source::http::{Client, HttpError};

/// Why etcd can't be asked, or does not give what is needed.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// No endpoint answers; the reason of the last one.
    #[error("etcd: {0}")]
    Http(#[from] HttpError),
    /// Another host has this node's name.
    #[error(
        "etcd: another host is called {name} there, with the addresses {addresses:?}, until its lease has run out: give one of them another \
             name (`node`)"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// The other host's addresses, as far as its entry is understood.
        addresses: Vec<IpAddr>,
    },
    /// No part of a subnet is free.
    #[error("etcd: all parts of {subnet} are taken: each has a prefix of {part} bits")]
    Full {
        /// The subnet.
        subnet: IpNetwork,
        /// The prefix length of a part.
        part: u8,
    },
    /// Other nodes are quicker.
    #[error("etcd: other nodes took each part that was free before this one could")]
    Overtaken,
    /// The address by which etcd is reached is none by which other nodes reach this one.
    #[error(
        "etcd: source.etcd.addresses: it is expected, because etcd is reached from {0}, where no other node reaches this one"
    )]
    LocalOnly(IpAddr),
    /// There is no route to etcd.
    #[error("etcd: {authority} can't be reached: {source}")]
    Unreachable {
        /// Host and port.
        authority: String,
        /// The system's reason.
        source: io::Error,
    },
    /// What the node remembers can't be read or written.
    #[error("etcd: {path:?}: {source}")]
    State {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// A client that asks one endpoint after the other.
#[derive(Debug)]
pub struct Etcd {
    endpoints: Vec<String>,
    /// The one that answered last.
    current: usize,
    client: Client,
}

/// A key with its value and lease.
#[derive(Debug)]
pub struct Entry {
    /// The key,
    pub key: String,
    /// its value,
    pub value: Vec<u8>,
    /// and its lease; 0 if it has none.
    pub lease: i64,
}

/// What a watch says.
#[derive(Debug)]
pub enum Watch {
    /// These have changed, up to this revision.
    Changes {
        /// The store's revision.
        revision: i64,
        /// In order.
        changes: Vec<Change>,
    },
    /// The revision that was asked for is no longer there.
    Compacted,
}

/// A key that was put, or deleted if it has no value.
#[derive(Debug)]
pub struct Change {
    /// The key.
    pub key: String,
    /// Its new value.
    pub value: Option<Vec<u8>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Header {
    revision: Number,
}

/// A 64-bit number, which JSON of protocol buffers has as text.
#[derive(Debug, Default, Clone, Copy)]
struct Number(i64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = match Value::deserialize(deserializer)? {
            Value::String(text) => text.parse().ok(),
            other => other.as_i64(),
        };
        number.map(Self).ok_or_else(|| serde::de::Error::custom("a number is expected"))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct KeyValue {
    key: String,
    value: String,
    lease: Number,
}

#[derive(Debug, Deserialize)]
struct Range {
    header: Header,
    #[serde(default)]
    kvs: Vec<KeyValue>,
}

#[derive(Debug, Deserialize)]
struct Streamed<T> {
    result: Option<T>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Watched {
    header: Header,
    canceled: bool,
    events: Vec<Event>,
}

#[derive(Debug, Deserialize)]
struct Event {
    #[serde(rename = "type", default)]
    kind: String,
    kv: KeyValue,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Lease {
    #[serde(rename = "ID")]
    id: Number,
    #[serde(rename = "TTL")]
    ttl: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Transaction {
    succeeded: bool,
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

fn decode(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap_or_default()
}

/// The end of the range of all keys with this prefix: the prefix with its last byte, which is a character's, one larger.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}

impl KeyValue {
    fn key(&self) -> String {
        String::from_utf8_lossy(&decode(&self.key)).into_owned()
    }
}

impl Etcd {
    /// Reads the certificates.
    ///
    /// # Errors
    /// The file's.
    pub fn open(settings: &settings::Etcd) -> Result<Self, EtcdError> {
        Ok(Self { endpoints: settings.endpoints.clone(), current: 0, client: Client::open(&settings.tls)? })
    }

    /// Reads the certificates again.
    ///
    /// # Errors
    /// The file's.
    pub fn refresh(&mut self) -> Result<(), EtcdError> {
        Ok(self.client.refresh()?)
    }

    /// The endpoint that answered last.
    pub fn endpoint(&self) -> &str {
        self.endpoints.get(self.current).map_or("", String::as_str)
    }

    /// Asks the endpoints in turn until one answers; the error is that of the last one. There is at least one.
    fn ask<T>(&mut self, path: &str, ask: impl Fn(&Client, &str) -> Result<T, HttpError>) -> Result<T, EtcdError> {
        let mut left = self.endpoints.len();
        loop {
            match ask(&self.client, &format!("{}/v3/{path}", self.endpoint())) {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    self.current = (self.current + 1) % self.endpoints.len().max(1);
                    left = left.saturating_sub(1);
                    if left == 0 {
                        return Err(error.into());
                    }
                }
            }
        }
    }

    fn post<T: DeserializeOwned>(&mut self, path: &str, document: &Value) -> Result<T, EtcdError> {
        self.ask(path, |client, url| client.post(url, document))
    }

    /// The key's entry.
    ///
    /// # Errors
    /// [`EtcdError::Http`].
    pub fn get(&mut self, key: &str) -> Result<Option<Entry>, EtcdError> {
        let found: Range = self.post("kv/range", &json!({"key": encode(key)}))?;
        Ok(entries(&found).pop())
    }

    /// All entries with the prefix, and the store's revision.
    ///
    /// # Errors
    /// [`EtcdError::Http`].
    pub fn range(&mut self, prefix: &str) -> Result<(Vec<Entry>, i64), EtcdError> {
        let found: Range =
            self.post("kv/range", &json!({"key": encode(prefix), "range_end": encode(end_of(prefix))}))?;
        Ok((entries(&found), found.header.revision.0))
    }

    /// Puts all of these under the lease, if none of `absent` exists; false if one does.
    ///
    /// # Errors
    /// [`EtcdError::Http`].
    pub fn put_all(&mut self, lease: i64, absent: &[String], puts: &[(String, String)]) -> Result<bool, EtcdError> {
        let compare: Vec<Value> = absent
            .iter()
            .map(|key| json!({"key": encode(key), "target": "VERSION", "result": "EQUAL", "version": "0"}))
            .collect();
        let success: Vec<Value> = puts
            .iter()
            .map(|(key, value)| {
                json!({"request_put": {"key": encode(key), "value": encode(value), "lease": lease.to_string()}})
            })
            .collect();
        let done: Transaction = self.post("kv/txn", &json!({"compare": compare, "success": success}))?;
        Ok(done.succeeded)
    }

    /// A lease of so many seconds.
    ///
    /// # Errors
    /// [`EtcdError::Http`].
    pub fn grant(&mut self, ttl: u32) -> Result<i64, EtcdError> {
        let lease: Lease = self.post("lease/grant", &json!({"TTL": ttl.to_string(), "ID": "0"}))?;
        Ok(lease.id.0)
    }

    /// Gives the lease up.
    ///
    /// # Errors
    /// [`EtcdError::Http`].
    pub fn revoke(&mut self, lease: i64) -> Result<(), EtcdError> {
        self.post("lease/revoke", &json!({"ID": lease.to_string()})).map(|_: Value| ())
    }

    /// Keeps the lease alive; false if it has run out.
    ///
    /// # Errors
    /// [`EtcdError::Http`].
    pub fn keep_alive(&mut self, lease: i64) -> Result<bool, EtcdError> {
        let kept: Streamed<Lease> = self.post("lease/keepalive", &json!({"ID": lease.to_string()}))?;
        Ok(kept.result.is_some_and(|lease| lease.ttl.0 > 0))
    }

    /// Follows the keys with the prefix, from this revision on.
    ///
    /// # Errors
    /// [`EtcdError::Http`]; the iterator's item is one if the answer breaks off.
    pub fn watch(
        &mut self,
        prefix: &str,
        from: i64,
        patience: Duration,
    ) -> Result<impl Iterator<Item = Result<Watch, serde_json::Error>> + use<>, EtcdError> {
        let document = json!({"create_request": {
            "key": encode(prefix), "range_end": encode(end_of(prefix)), "start_revision": from.to_string()
        }});
        let stream = self.ask("watch", |client, url| client.post_for_stream(url, &document, patience))?;
        Ok(watched(stream))
    }
}

fn watched(stream: impl Read) -> impl Iterator<Item = Result<Watch, serde_json::Error>> {
    serde_json::Deserializer::from_reader(stream).into_iter::<Streamed<Watched>>().map(|answer| {
        let Some(watched) = answer?.result else { return Ok(Watch::Compacted) };
        if watched.canceled {
            return Ok(Watch::Compacted);
        }
        let changes = watched.events.iter().map(|event| Change {
            key: event.kv.key(),
            value: (event.kind != "DELETE").then(|| decode(&event.kv.value)),
        });
        Ok(Watch::Changes { revision: watched.header.revision.0, changes: changes.collect() })
    })
}

fn entries(range: &Range) -> Vec<Entry> {
    let entry = |kv: &KeyValue| Entry { key: kv.key(), value: decode(&kv.value), lease: kv.lease.0 };
    range.kvs.iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_documents_one_after_the_other() {
        let key = encode("/n/a");
        let text = format!(
            "{{\"result\":{{\"header\":{{\"revision\":\"7\"}},\"created\":true}}}}\n\
             {{\"result\":{{\"header\":{{\"revision\":\"9\"}},\"events\":[{{\"kv\":{{\"key\":\"{key}\",\"value\":\"{}\",\"lease\":\"5\"}}}},\
             {{\"type\":\"DELETE\",\"kv\":{{\"key\":\"{key}\"}}}}]}}}}\n\
             {{\"result\":{{\"canceled\":true,\"compact_revision\":\"12\"}}}}\n",
            encode("v")
        );
        let all: Vec<_> = watched(text.as_bytes()).map(Result::unwrap).collect();
        let Watch::Changes { revision: 9, changes } = &all[1] else { panic!("{all:?}") };
        assert_eq!(
            changes.iter().map(|c| (c.key.as_str(), c.value.as_deref())).collect::<Vec<_>>(),
            [("/n/a", Some(&b"v"[..])), ("/n/a", None)]
        );
        assert!(matches!(all[..], [Watch::Changes { revision: 7, .. }, _, Watch::Compacted]));
    }

    #[test]
    fn a_lease_that_has_run_out_has_no_time_left() {
        let kept = |text: &str| serde_json::from_str::<Streamed<Lease>>(text).unwrap().result.unwrap();
        assert_eq!(kept(r#"{"result":{"ID":"7","TTL":"60"}}"#).ttl.0, 60);
        assert_eq!(kept(r#"{"result":{"ID":"7"}}"#).ttl.0, 0);
    }
}
