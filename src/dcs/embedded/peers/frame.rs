//! What goes through a connection: a length of four bytes (little end first, as everything of [`super::super::codec`]), a byte for the kind, and the
//! rest. The length counts what follows it.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::dcs::embedded::codec::{Coded, Malformed, Reader, Writer};
use crate::dcs::embedded::node::Note;

/// The version of this protocol. Boxes of different versions refuse each other.
pub const VERSION: u16 = 1;
/// In place of a cluster's number: the box has voted or may have, so it is not new, but the number was not agreed upon yet.
pub const FOUNDED: u64 = 1;
/// No frame is longer, bytes without the length: a note of 2 MiB and a bit.
pub const MAX_FRAME: usize = (2 * 1024 + 64) * 1024;
/// The first frame of a box is not longer, bytes.
pub const MAX_OPENING: usize = 4 * 1024;
/// No name, address or scope is longer, bytes.
pub const MAX_TEXT: usize = 1024;
/// Reasons are cut here, bytes.
const MAX_WHY: usize = 512;

/// Who is there: the first frame of both sides, and again when the cluster becomes known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// [`VERSION`] of the sender.
    pub version: u16,
    /// The cluster's name.
    pub scope: String,
    /// The cluster's number; 0: it belongs to none yet; [`FOUNDED`]: to one whose number it does not know yet.
    pub cluster: u64,
    /// The box's number, never 0.
    pub node: u64,
    /// The box's name, for people.
    pub name: String,
    /// `HOST:PORT` where the box is reached.
    pub address: String,
}

impl Hello {
    /// Whether others can read it.
    ///
    /// # Errors
    /// The field that they would refuse.
    pub fn check(&self) -> Result<(), Malformed> {
        if self.node == 0 {
            return Err(Malformed::Invalid("a box's number"));
        }
        for (text, what) in [(&self.scope, "a scope"), (&self.name, "a box's name"), (&self.address, "a box's address")] {
            if text.len() > MAX_TEXT {
                return Err(Malformed::Long(what));
            }
            // They get into logs.
            if text.chars().any(char::is_control) {
                return Err(Malformed::Invalid(what));
            }
        }
        Ok(())
    }

    fn write(&self, out: &mut Writer) {
        let [low, high] = self.version.to_le_bytes();
        out.u8(low);
        out.u8(high);
        out.bytes(self.scope.as_bytes());
        out.u64(self.cluster);
        out.u64(self.node);
        out.bytes(self.name.as_bytes());
        out.bytes(self.address.as_bytes());
    }

    /// The rest may look different in another version.
    fn read(from: &mut Reader<'_>) -> Result<Result<Hello, u16>, Malformed> {
        let version = u16::from_le_bytes([from.u8("a version")?, from.u8("a version")?]);
        if version != VERSION {
            return Ok(Err(version));
        }
        let hello = Hello {
            version,
            scope: text(from, "a scope")?,
            cluster: from.u64("a cluster's number")?,
            node: from.u64("a box's number")?,
            name: text(from, "a box's name")?,
            address: text(from, "a box's address")?,
        };
        from.end()?;
        hello.check()?;
        Ok(Ok(hello))
    }
}

fn text(from: &mut Reader<'_>, what: &'static str) -> Result<String, Malformed> {
    String::from_utf8(from.bytes(what)?.to_vec()).map_err(|_| Malformed::Invalid(what))
}

/// One frame.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// Who is there.
    Hello(Hello),
    /// Somebody who speaks this version of the protocol, and not ours.
    Stranger(u16),
    /// Of the store.
    Note(Note),
    /// Still there.
    Ping,
    /// The sender closes the connection, and why.
    Goodbye(String),
}

const HELLO: u8 = 1;
const NOTE: u8 = 2;
const PING: u8 = 3;
const GOODBYE: u8 = 4;

fn frame(kind: u8, write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut out = Writer::default();
    out.u32(0);
    out.u8(kind);
    write(&mut out);
    let mut bytes = out.finish();
    let length = u32::try_from(bytes.len().saturating_sub(4)).unwrap_or(u32::MAX);
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes
}

/// The frame of a greeting, with its length.
#[must_use]
pub fn hello(hello: &Hello) -> Vec<u8> {
    frame(HELLO, |out| hello.write(out))
}

/// The frame of a note, with its length. `None` if it is too long for others.
#[must_use]
pub fn note(note: &Note) -> Option<Vec<u8>> {
    Some(frame(NOTE, |out| note.write(out))).filter(|bytes| bytes.len() <= MAX_FRAME + 4)
}

/// The frame that only says that somebody is there, with its length.
#[must_use]
pub fn ping() -> Vec<u8> {
    frame(PING, |_| {})
}

/// The last frame, with its length.
#[must_use]
pub fn goodbye(why: &str) -> Vec<u8> {
    frame(GOODBYE, |out| out.bytes(printable(why.as_bytes()).as_bytes()))
}

/// Text that may go into a log.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut kept = String::new();
    for letter in text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }) {
        if kept.len() + letter.len_utf8() > MAX_WHY {
            break;
        }
        kept.push(letter);
    }
    kept
}

/// Reads a frame, without its length.
///
/// # Errors
/// It is none.
pub fn decode(bytes: &[u8]) -> Result<Frame, Malformed> {
    let mut from = Reader::new(bytes);
    let read = match from.u8("a frame")? {
        HELLO => return Ok(Hello::read(&mut from)?.map_or_else(Frame::Stranger, Frame::Hello)),
        NOTE => Frame::Note(Note::read(&mut from)?),
        PING => Frame::Ping,
        GOODBYE => Frame::Goodbye(printable(from.bytes("a reason")?)),
        number => return Err(Malformed::Unknown { what: "a frame", number }),
    };
    from.end()?;
    Ok(read)
}

/// Why no frame came, or none could be sent.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The other side closed it.
    #[error("it closed the connection")]
    Closed,
    /// Nothing moved for so long.
    #[error("nothing was heard of it for {} s", .0.as_secs_f32())]
    Silent(Duration),
    /// It does not take what it is sent.
    #[error("it took nothing of what it was sent for {} s", .0.as_secs_f32())]
    Stuck(Duration),
    /// A length that no frame has.
    #[error("it sent a frame of {0} bytes, which no frame has here")]
    Length(u32),
    /// Something that is no frame.
    #[error("it sent what is no frame of this protocol: {0}")]
    Malformed(#[from] Malformed),
}

impl Broken {
    /// The connection works, and what came over it does not.
    #[must_use]
    pub fn is_content(&self) -> bool {
        matches!(self, Broken::Length(_) | Broken::Malformed(_))
    }

    fn reading(error: io::Error) -> Broken {
        match error.kind() {
            // Without TLS's own farewell: a process that was killed. It means the same here, because frames have lengths.
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Broken::Closed,
            _ => Broken::Io(error),
        }
    }
}

/// Reads the next frame of at most `limit` bytes. `heard` is called whenever something came. Memory is taken as bytes arrive, never because a
/// length announces them. Must not be cancelled if the connection is to be used on.
///
/// # Errors
/// There is none, or nothing at all came for `silence`.
pub async fn read<R: AsyncRead + Unpin>(from: &mut R, limit: usize, silence: Duration, heard: impl Fn()) -> Result<Frame, Broken> {
    let mut head = Vec::with_capacity(4);
    fill(from, &mut head, 4, silence, &heard).await?;
    let length = head.try_into().map_or(0, u32::from_le_bytes);
    let count = usize::try_from(length).unwrap_or(usize::MAX);
    if count == 0 || count > limit {
        return Err(Broken::Length(length));
    }
    let mut body = Vec::with_capacity(count.min(8 * 1024));
    fill(from, &mut body, count, silence, &heard).await?;
    Ok(decode(&body)?)
}

async fn fill<R: AsyncRead + Unpin>(
    from: &mut R,
    into: &mut Vec<u8>,
    count: usize,
    silence: Duration,
    heard: &impl Fn(),
) -> Result<(), Broken> {
    while into.len() < count {
        let mut rest = (&mut *from).take((count - into.len()) as u64);
        match tokio::time::timeout(silence, rest.read_buf(into)).await {
            Err(_) => return Err(Broken::Silent(silence)),
            Ok(Err(error)) => return Err(Broken::reading(error)),
            Ok(Ok(0)) => return Err(Broken::Closed),
            Ok(Ok(_)) => heard(),
        }
    }
    Ok(())
}

/// Sends bytes to the last one. Must not be cancelled if the connection is to be used on.
///
/// # Errors
/// The connection failed, or the other side took nothing for `patience`.
pub async fn write<W: AsyncWrite + Unpin>(to: &mut W, mut bytes: &[u8], patience: Duration) -> Result<(), Broken> {
    while !bytes.is_empty() {
        match tokio::time::timeout(patience, to.write(bytes)).await {
            Err(_) => return Err(Broken::Stuck(patience)),
            Ok(Ok(0)) => return Err(Broken::Closed),
            Ok(Ok(count)) => bytes = bytes.get(count..).unwrap_or_default(),
            Ok(Err(error)) => return Err(error.into()),
        }
    }
    match tokio::time::timeout(patience, to.flush()).await {
        Err(_) => Err(Broken::Stuck(patience)),
        Ok(flushed) => Ok(flushed?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dcs::embedded::request::{Answer, Request};

    const LONG: Duration = Duration::from_secs(60);

    fn greeting() -> Hello {
        let (scope, name, address) = ("demo".to_owned(), "n1".to_owned(), "[fd00::1]:7000".to_owned());
        Hello { version: VERSION, scope, cluster: 7, node: 3, name, address }
    }

    fn frames() -> Vec<(Vec<u8>, Frame)> {
        let ask = Note::Ask { number: 7, request: Request::Renew { lease: -1 } };
        vec![
            (hello(&greeting()), Frame::Hello(greeting())),
            (note(&ask).unwrap(), Frame::Note(ask)),
            (ping(), Frame::Ping),
            (goodbye("why\nnot"), Frame::Goodbye("why not".to_owned())),
        ]
    }

    fn block_on<T>(future: impl std::future::Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    #[test]
    fn back_and_forth_and_cut_at_every_byte() {
        block_on(async {
            for (bytes, frame) in frames() {
                let (mut near, mut far) = tokio::io::duplex(8);
                let (sent, received) = tokio::join!(write(&mut near, &bytes, LONG), read(&mut far, MAX_FRAME, LONG, || {}));
                assert!(sent.is_ok());
                assert_eq!(received.unwrap(), frame);
                for cut in 0..bytes.len() {
                    assert!(matches!(read(&mut &bytes[..cut], MAX_FRAME, LONG, || {}).await, Err(Broken::Closed)), "{frame:?} {cut}");
                    // The same, with a length that fits what is there.
                    assert!(decode(bytes.get(4..cut).unwrap_or_default()).is_err(), "{frame:?} {cut}");
                }
                let longer = [&bytes[4..], &[0]].concat();
                assert!(decode(&longer).is_err(), "{frame:?}");
            }
        });
    }

    #[test]
    fn lengths() {
        block_on(async {
            for (length, limit) in [(0, MAX_FRAME), (u32::MAX, MAX_FRAME), (11, 10)] {
                let broken = read(&mut &u32::to_le_bytes(length)[..], limit, LONG, || {}).await.unwrap_err();
                assert!(matches!(broken, Broken::Length(said) if said == length) && broken.is_content());
            }
            let heard = std::cell::Cell::new(0);
            let silent = read(&mut tokio::io::duplex(8).0.chain(&b""[..]), 9, Duration::from_millis(20), || heard.set(1)).await;
            assert!(matches!(silent, Err(Broken::Silent(_) | Broken::Closed)));
            let (mut near, _far) = tokio::io::duplex(8);
            assert!(matches!(write(&mut near, &[0; 9], Duration::from_millis(20)).await, Err(Broken::Stuck(_))));
            assert!(matches!(read(&mut near, 9, Duration::from_millis(20), || heard.set(1)).await, Err(Broken::Silent(_))));
            assert_eq!(heard.get(), 0);
        });
        assert!(note(&Note::Tell { number: 1, answer: Answer::Refused("x".repeat(MAX_FRAME)) }).is_none());
        let most = Hello { scope: "s".repeat(MAX_TEXT), name: "n".repeat(MAX_TEXT), address: "a".repeat(MAX_TEXT), ..greeting() };
        assert!(most.check().is_ok() && hello(&most).len() - 4 <= MAX_OPENING);
        let (Ok(Frame::Goodbye(why)), long) = (decode(&goodbye(&"ü".repeat(1000))[4..]), MAX_WHY / 2) else { panic!() };
        assert_eq!(why, "ü".repeat(long));
    }

    #[test]
    fn greetings_that_nobody_believes() {
        let bad = [
            Hello { node: 0, ..greeting() },
            Hello { name: "a\nb".to_owned(), ..greeting() },
            Hello { address: "\u{1b}[2J".to_owned(), ..greeting() },
            Hello { scope: "s".repeat(MAX_TEXT + 1), ..greeting() },
        ];
        for hello_ in bad {
            assert!(hello_.check().is_err() && decode(&hello(&hello_)[4..]).is_err(), "{hello_:?}");
        }
        // Of another version only the version is read.
        let mut other = hello(&Hello { version: 900, ..greeting() });
        other.truncate(9);
        assert_eq!(decode(&other[4..]), Ok(Frame::Stranger(900)));
        assert_eq!(decode(&[2, 99]), Err(Malformed::Unknown { what: "a note", number: 99 }));
    }

    #[test]
    fn garbage() {
        let mut state = 1_u64;
        let mut random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        };
        let samples = frames();
        for round in 0..20_000 {
            let mut bytes: Vec<u8> = if round % 2 == 0 {
                (0..random() % 64).map(|_| random() as u8).collect()
            } else {
                samples[random() % samples.len()].0[4..].to_vec()
            };
            for _ in 0..random() % 4 {
                if let Some(at) = (random() % 64).checked_rem(bytes.len().max(1)).filter(|at| *at < bytes.len()) {
                    bytes[at] = random() as u8;
                }
            }
            if let Ok(Frame::Goodbye(why)) = decode(&bytes) {
                assert!(why.len() <= MAX_WHY && !why.chars().any(char::is_control));
            }
        }
    }
}
