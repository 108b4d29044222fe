//! An S3 store in the memory of the test, which does to requests what the test's script says.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// Step that a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Put,
    Manifest,
    Create,
    Part,
    Complete,
    Abort,
    Delete,
    ListUploads,
    List,
    Head,
    Get,
}

/// Reaction of the store to a request.
#[derive(Debug, Clone, Copy)]
pub enum Action {
    /// The store does it and says so.
    Do,
    /// The store does it and says so after a while.
    DoLate(Duration),
    /// The store answers with this status line and this code of an error, and does nothing.
    Refuse(&'static str, &'static str),
    /// The answer ends after that number of bytes; the store has done what was asked.
    Cut(usize),
    /// The connection breaks before the store has done anything.
    Break,
    /// The store does it, and the connection breaks before the answer.
    LoseAnswer,
    /// Nothing happens any more on this connection.
    Hang,
    /// Somebody else changes the bucket, and then the store does it.
    After(fn(&mut Content)),
}

/// Treatment of `If-None-Match` and `If-Match`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conditions {
    /// As Amazon does: 412 where the condition does not hold, and 404 where the object is gone.
    Obeyed,
    /// 501 for a request that has one.
    Refused,
    /// As if there were none.
    Ignored,
}

/// The objects and multipart uploads of the bucket.
#[derive(Debug, Default)]
pub struct Content {
    pub objects: BTreeMap<String, Vec<u8>>,
    /// The export that has marked the object as its own, by key.
    pub marks: BTreeMap<String, String>,
    /// CRC-32 of objects that came whole, in base64, by key.
    pub checksums: BTreeMap<String, String>,
    /// The export in whose place that one has come, by key.
    predecessors: BTreeMap<String, String>,
    /// The mark that the object of a multipart upload will have, by upload id.
    upload_marks: BTreeMap<String, String>,
    /// By upload id: the key, and the parts by number.
    pub uploads: BTreeMap<String, (String, BTreeMap<u32, Vec<u8>>)>,
    uploads_so_far: usize,
    /// How many requests asked for each step.
    pub requests: Vec<Step>,
}

/// Listens until the test's process ends.
#[derive(Clone)]
pub struct MemoryStore {
    address: SocketAddr,
    content: Arc<Mutex<Content>>,
}

impl MemoryStore {
    /// `script` is asked about each request, and given the step.
    pub fn start(script: impl Fn(Step) -> Action + Send + Sync + 'static) -> Self {
        Self::with(Conditions::Obeyed, script)
    }

    /// A store that treats conditions like that.
    pub fn with(conditions: Conditions, script: impl Fn(Step) -> Action + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let store = MemoryStore { address: listener.local_addr().unwrap(), content: Arc::default() };
        let (content, script) = (Arc::clone(&store.content), Arc::new(script));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (content, script) = (Arc::clone(&content), Arc::clone(&script));
                thread::spawn(move || serve(client, &content, conditions, &*script));
            }
        });
        store
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap()
    }
}

struct Request {
    method: String,
    key: String,
    query: String,
    if_none_match: bool,
    if_match: Option<String>,
    mark: Option<String>,
    predecessor: Option<String>,
    checksum: Option<String>,
    asks_for_checksum: bool,
    range: Option<String>,
    body: Vec<u8>,
}

impl Request {
    fn step(&self) -> Step {
        match (self.method.as_str(), self.query.as_str()) {
            ("POST", "uploads") => Step::Create,
            ("POST", query) if query.contains("uploadId=") => Step::Complete,
            ("POST", _) => Step::Delete,
            ("PUT", query) if query.contains("partNumber=") => Step::Part,
            ("PUT", _) if self.key.ends_with(".manifest") => Step::Manifest,
            ("PUT", _) => Step::Put,
            ("DELETE", query) if query.contains("uploadId=") => Step::Abort,
            ("DELETE", _) => Step::Delete,
            ("GET", query) if query.contains("uploads") => Step::ListUploads,
            ("GET", query) if query.contains("list-type=2") => Step::List,
            ("GET", _) => Step::Get,
            ("HEAD", _) => Step::Head,
            other => panic!("the store knows no request {other:?}"),
        }
    }

    /// The value of a member of the query.
    fn member(&self, name: &str) -> Option<&str> {
        self.query.split('&').find_map(|member| member.split_once('=').filter(|(key, _)| *key == name)).map(|(_, value)| value)
    }
}

/// A client that goes away in the middle is nobody's concern.
fn serve(
    mut client: TcpStream,
    content: &Mutex<Content>,
    conditions: Conditions,
    script: &impl Fn(Step) -> Action,
) -> Option<()> {
    client.set_nodelay(true).ok()?;
    let mut bytes = Vec::new();
    loop {
        let request = read(&mut client, &mut bytes)?;
        let step = request.step();
        content.lock().unwrap().requests.push(step);
        let answer = match script(step) {
            Action::Do => act(&request, content, conditions),
            Action::DoLate(time) => {
                thread::sleep(time);
                act(&request, content, conditions)
            }
            Action::Refuse(status, code) => {
                answer(status, &format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>scripted</Message></Error>"))
            }
            Action::Cut(bytes) => {
                let answer = act(&request, content, conditions);
                client.write_all(&answer.as_bytes()[..bytes]).ok()?;
                return None;
            }
            Action::Break => return None,
            Action::LoseAnswer => {
                act(&request, content, conditions);
                return None;
            }
            Action::After(change) => {
                change(&mut content.lock().unwrap());
                act(&request, content, conditions)
            }
            Action::Hang => {
                thread::sleep(Duration::from_secs(600));
                return None;
            }
        };
        client.write_all(answer.as_bytes()).ok()?;
    }
}

fn read(client: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<Request> {
    let mut buffer = vec![0; 64 << 10];
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        let read = client.read(&mut buffer).ok().filter(|&read| read > 0)?;
        bytes.extend_from_slice(&buffer[..read]);
    };
    let rest = bytes.split_off(end);
    let head = String::from_utf8(std::mem::replace(bytes, rest)).unwrap();
    let header = |name: &str| {
        head.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    };
    let (if_none_match, if_match) = (header("if-none-match").is_some(), header("if-match").map(str::to_owned));
    let mark = header("x-amz-meta-s3-export-id").map(str::to_owned);
    let predecessor = header("x-amz-meta-s3-export-replaces").map(str::to_owned);
    let (checksum, range) = (header("x-amz-checksum-crc32").map(str::to_owned), header("range").map(str::to_owned));
    let asks_for_checksum = header("x-amz-checksum-mode") == Some("ENABLED");
    let length: usize = header("content-length").map_or(0, |value| value.parse().unwrap());
    if header("expect").is_some() {
        client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    while bytes.len() < length {
        let read = client.read(&mut buffer).ok().filter(|&read| read > 0)?;
        bytes.extend_from_slice(&buffer[..read]);
    }
    let rest = bytes.split_off(length);
    let body = std::mem::replace(bytes, rest);
    let mut line = head.split(' ');
    let (method, target) = (line.next()?.to_owned(), line.next()?.to_owned());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let key = path.trim_start_matches('/').split_once('/').map_or("", |(_, key)| key).replace("%3D", "=");
    // The SDK names its operations in the query too.
    let query = query.split('&').filter(|member| !member.starts_with("x-id=")).collect::<Vec<_>>().join("&");
    Some(Request {
        method,
        key,
        query: query.trim_end_matches('=').to_owned(),
        if_none_match,
        if_match,
        mark,
        predecessor,
        checksum,
        asks_for_checksum,
        range,
        body,
    })
}

/// Does what is asked, and gives S3's answer.
fn act(request: &Request, content: &Mutex<Content>, conditions: Conditions) -> String {
    let mut content = content.lock().unwrap();
    let stored = |body: &[u8]| format!("200 OK\r\netag: {}", etag_of(body));
    let id = request.member("uploadId").unwrap_or_default().to_owned();
    if let Some(refusal) = refused(request, &content, conditions) {
        return refusal;
    }
    match request.step() {
        Step::Put | Step::Manifest => {
            content.store(&request.key, request.body.clone(), request.mark.clone());
            content.checksums.extend(request.checksum.clone().map(|checksum| (request.key.clone(), checksum)));
            content.predecessors.extend(request.predecessor.clone().map(|predecessor| (request.key.clone(), predecessor)));
            answer(&stored(&request.body), "")
        }
        Step::Create => {
            content.uploads_so_far += 1;
            let id = format!("upload{}", content.uploads_so_far);
            content.uploads.insert(id.clone(), (request.key.clone(), BTreeMap::new()));
            content.upload_marks.extend(request.mark.clone().map(|mark| (id.clone(), mark)));
            answer(
                "200 OK",
                &format!(
                    "<InitiateMultipartUploadResult><Bucket>bucket</Bucket><Key>{}</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>",
                    request.key
                ),
            )
        }
        Step::Part => match content.uploads.get_mut(&id) {
            Some((_, parts)) => {
                parts.insert(request.member("partNumber").unwrap().parse().unwrap(), request.body.clone());
                answer(&stored(&request.body), "")
            }
            None => no_such_upload(),
        },
        Step::Complete => match content.uploads.remove(&id) {
            Some((key, parts)) => {
                let mark = content.upload_marks.remove(&id);
                content.store(&key, parts.into_values().flatten().collect(), mark);
                answer(
                    "200 OK",
                    "<CompleteMultipartUploadResult><Bucket>bucket</Bucket><Key>key</Key><ETag>\"1\"</ETag></CompleteMultipartUploadResult>",
                )
            }
            None => no_such_upload(),
        },
        Step::Abort => match content.uploads.remove(&id) {
            Some(_) => answer("204 No Content", ""),
            None => no_such_upload(),
        },
        Step::Delete if request.method == "DELETE" => {
            content.objects.remove(&request.key);
            answer("204 No Content", "")
        }
        Step::Delete => {
            let body = String::from_utf8(request.body.clone()).unwrap();
            for key in body.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>")).map(|(key, _)| key) {
                content.objects.remove(key);
            }
            answer("200 OK", "<DeleteResult></DeleteResult>")
        }
        Step::ListUploads => {
            let prefix = request.member("prefix").unwrap_or_default().replace("%2F", "/");
            let upload = |(id, (key, _)): (&String, &(String, _))| {
                let upload = format!("<Upload><Key>{key}</Key><UploadId>{id}</UploadId></Upload>");
                key.starts_with(&prefix).then_some(upload)
            };
            let uploads: String = content.uploads.iter().filter_map(upload).collect();
            answer(
                "200 OK",
                &format!("<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{uploads}</ListMultipartUploadsResult>"),
            )
        }
        Step::Head => match content.objects.get(&request.key) {
            Some(body) => {
                let length = body.len();
                let checksum = content.checksums.get(&request.key).filter(|_| request.asks_for_checksum);
                let checksum = checksum.map(|checksum| format!("\r\nx-amz-checksum-crc32: {checksum}")).unwrap_or_default();
                format!(
                    "HTTP/1.1 200 OK\r\netag: {}{}{checksum}\r\ncontent-length: {length}\r\n\r\n",
                    etag_of(body),
                    content.mark_of(&request.key)
                )
            }
            None => "HTTP/1.1 404 Not Found\r\n\r\n".to_owned(),
        },
        Step::Get => match content.objects.get(&request.key) {
            Some(body) => {
                let Some(range) = &request.range else {
                    let head = format!("{}{}", stored(body), content.mark_of(&request.key));
                    return answer(&head, std::str::from_utf8(body).unwrap());
                };
                let (start, end) = range.trim_start_matches("bytes=").split_once('-').unwrap();
                let part = &body[start.parse().unwrap()..=end.parse().unwrap()];
                let head = format!("206 Partial Content\r\ncontent-range: bytes {start}-{end}/{}", body.len());
                answer(&head, std::str::from_utf8(part).unwrap())
            }
            None => no_such_key(),
        },
        Step::List => {
            let prefix = request.member("prefix").unwrap_or_default().replace("%2F", "/").replace("%3D", "=");
            let object = |(key, body): (&String, &Vec<u8>)| {
                let object = format!("<Contents><Key>{key}</Key><Size>{}</Size></Contents>", body.len());
                key.starts_with(&prefix).then_some(object)
            };
            let objects: String = content.objects.iter().filter_map(object).collect();
            answer("200 OK", &format!("<ListBucketResult><IsTruncated>false</IsTruncated>{objects}</ListBucketResult>"))
        }
    }
}

impl Content {
    /// Stores an object, marked or not.
    pub fn store(&mut self, key: &str, body: Vec<u8>, mark: Option<String>) {
        self.marks.remove(key);
        self.checksums.remove(key);
        self.predecessors.remove(key);
        self.marks.extend(mark.map(|mark| (key.to_owned(), mark)));
        self.objects.insert(key.to_owned(), body);
    }

    /// The mark as a header, after a line break.
    fn mark_of(&self, key: &str) -> String {
        let header = |name: &str, marks: &BTreeMap<String, String>| {
            marks.get(key).map(|mark| format!("\r\nx-amz-meta-{name}: {mark}")).unwrap_or_default()
        };
        header("s3-export-id", &self.marks) + &header("s3-export-replaces", &self.predecessors)
    }
}

/// ETag of an object with that content, in quotes.
pub fn etag_of(body: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

/// The answer to a request whose condition does not hold, or may not be there.
fn refused(request: &Request, content: &Content, conditions: Conditions) -> Option<String> {
    let has_condition = request.if_none_match || request.if_match.is_some();
    if !has_condition || conditions == Conditions::Ignored {
        return None;
    }
    if conditions == Conditions::Refused {
        return Some(answer("501 Not Implemented", "<Error><Code>NotImplemented</Code></Error>"));
    }
    let there = content.objects.get(&request.key).map(|body| etag_of(body));
    match (&request.if_match, there) {
        (Some(_), None) => Some(no_such_key()),
        (Some(expected), Some(there)) if *expected == there => None,
        (None, None) => None,
        _ => Some(answer("412 Precondition Failed", "<Error><Code>PreconditionFailed</Code></Error>")),
    }
}

fn no_such_key() -> String {
    answer("404 Not Found", "<Error><Code>NoSuchKey</Code></Error>")
}

fn no_such_upload() -> String {
    answer("404 Not Found", "<Error><Code>NoSuchUpload</Code></Error>")
}

fn answer(status: &str, body: &str) -> String {
    let length = if status.starts_with("204") { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    format!("HTTP/1.1 {status}\r\n{length}\r\n{body}")
}
