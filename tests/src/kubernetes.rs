//! An API server that knows nodes and nothing else: lists in pages, watches with bookmarks, and what goes wrong with them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Netns;

/// What it knows, and how it behaves.
#[derive(Debug, Default)]
pub struct State {
    nodes: BTreeMap<String, Value>,
    /// The newest one.
    pub version: u64,
    /// Each with its version.
    pub events: Vec<(u64, Value)>,
    /// Watches from versions before this one are refused.
    pub oldest: u64,
    /// What a request has to have, unless it is empty.
    pub token: String,
    /// Watches that are open end when this is another one.
    pub round: u64,
    /// It answers nothing.
    pub is_silent: bool,
}

/// The server.
#[derive(Debug, Clone)]
pub struct Api {
    state: Arc<Mutex<State>>,
    /// How many pages of lists were asked for,
    pub lists: Arc<AtomicUsize>,
    /// and how many watches.
    pub watches: Arc<AtomicUsize>,
    /// Where it serves.
    pub ns: Netns,
}

impl Api {
    /// Serves in this namespace.
    pub fn serve(ns: Netns, address: &str) -> Self {
        let listener = ns.run(|| TcpListener::bind(address).unwrap());
        let api = Self { state: Arc::default(), lists: Arc::default(), watches: Arc::default(), ns };
        let serving = api.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let api = serving.clone();
                thread::spawn(move || api.answer(stream));
            }
        });
        api
    }

    /// A node with these addresses and this range.
    pub fn put(&self, name: &str, addresses: &[String], cidr: &str) {
        let addresses: Vec<Value> =
            addresses.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
        self.publish(name, json!({"spec": {"podCIDR": cidr, "podCIDRs": [cidr]}, "status": {"addresses": addresses}}));
    }

    /// A node with this content.
    pub fn publish(&self, name: &str, mut object: Value) {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        object["metadata"] = json!({"name": name, "resourceVersion": state.version.to_string()});
        let kind = if state.nodes.insert(name.to_owned(), object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        let version = state.version;
        state.events.push((version, json!({"type": kind, "object": object})));
    }

    /// A node goes.
    pub fn delete(&self, name: &str) {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        let mut object = state.nodes.remove(name).unwrap();
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        let version = state.version;
        state.events.push((version, json!({"type": "DELETED", "object": object})));
    }

    /// Changes what it knows or how it behaves.
    pub fn with(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    fn answer(&self, mut stream: TcpStream) {
        let mut head = BufReader::new(stream.try_clone().unwrap())
            .lines()
            .map_while(Result::ok)
            .take_while(|line| !line.is_empty());
        let Some(first) = head.next() else { return };
        let headers: Vec<String> = head.collect();
        let target = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let of = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(&format!("{key}="))).map(str::to_owned);
        while self.state.lock().unwrap().is_silent {
            thread::sleep(Duration::from_millis(20));
        }
        let token = self.state.lock().unwrap().token.clone();
        let bearer = headers.iter().any(|line| line.eq_ignore_ascii_case(&format!("authorization: bearer {token}")));
        let status =
            |code: u16, reason: &str| json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason});
        let (code, body) = match path {
            _ if !token.is_empty() && !bearer => ("401 Unauthorized", status(401, "Unauthorized")),
            "/api/v1/nodes" if of("watch").is_some() => return self.watch(stream, &of("resourceVersion").unwrap()),
            "/api/v1/nodes" => ("200 OK", self.list(of("limit").unwrap().parse().unwrap(), of("continue"))),
            _ => ("404 Not Found", status(404, "NotFound")),
        };
        let body = body.to_string();
        let _ = write!(stream, "HTTP/1.1 {code}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    }

    fn list(&self, limit: usize, next: Option<String>) -> Value {
        self.lists.fetch_add(1, Ordering::Relaxed);
        let state = self.state.lock().unwrap();
        let first: usize = next.map_or(0, |next| next.parse().unwrap());
        let items: Vec<&Value> = state.nodes.values().skip(first).take(limit).collect();
        let mut metadata = json!({"resourceVersion": state.version.to_string()});
        if first + items.len() < state.nodes.len() {
            metadata["continue"] = json!((first + items.len()).to_string());
        }
        json!({"kind": "NodeList", "metadata": metadata, "items": items})
    }

    fn watch(&self, mut stream: TcpStream, from: &str) {
        self.watches.fetch_add(1, Ordering::Relaxed);
        let mut from: u64 = from.parse().unwrap();
        let round = self.state.lock().unwrap().round;
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n");
        let mut ticks = 0;
        loop {
            let (new, version) = {
                let state = self.state.lock().unwrap();
                if from < state.oldest {
                    let gone = json!({"kind": "Status", "status": "Failure", "reason": "Expired", "code": 410});
                    let _ = writeln!(stream, "{}", json!({"type": "ERROR", "object": gone}));
                    return;
                }
                if state.round != round {
                    // In the middle of an event.
                    let _ = write!(stream, "{{\"type\":\"MODI");
                    return;
                }
                let new: Vec<_> = state
                    .events
                    .iter()
                    .filter(|(version, _)| *version > from)
                    .map(|(_, event)| event.to_string())
                    .collect();
                (new, state.version)
            };
            for event in new {
                let _ = writeln!(stream, "{event}");
            }
            from = version;
            ticks += 1;
            if ticks % 10 == 0 {
                let bookmark = json!({"kind": "Node", "metadata": {"resourceVersion": version.to_string()}});
                if writeln!(stream, "{}", json!({"type": "BOOKMARK", "object": bookmark})).is_err() {
                    return;
                }
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
