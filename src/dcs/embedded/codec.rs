//! Bytes on the wire and in the file: fixed integers, lengths in front of strings. Reading never trusts a length and never panics.

/// Why bytes cannot be read. The text names what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The bytes end too early.
    #[error("{0} is cut off")]
    Short(&'static str),
    /// A number that stands for nothing.
    #[error("{what} has the unknown kind {number}")]
    Unknown {
        /// What was read.
        what: &'static str,
        /// Its number.
        number: u8,
    },
    /// A length or count above what is sent by anybody.
    #[error("{0} is too long")]
    Long(&'static str),
    /// Bytes are left over.
    #[error("{0} bytes follow the end")]
    Trailing(usize),
    /// A field that contradicts another one.
    #[error("{0} is not valid")]
    Invalid(&'static str),
}

/// Something that can be written and read back.
pub trait Coded: Sized {
    /// Appends it.
    fn write(&self, out: &mut Writer);
    /// Takes it from the front.
    ///
    /// # Errors
    /// The bytes hold something else.
    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed>;

    /// Its bytes.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.write(&mut out);
        out.bytes
    }

    /// Reads it and nothing else.
    ///
    /// # Errors
    /// The bytes hold something else, or more.
    fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(bytes);
        let value = Self::read(&mut from)?;
        from.end()?;
        Ok(value)
    }
}

/// Appends.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// Four bytes, little end first.
    pub fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Eight bytes, little end first.
    pub fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Eight bytes, little end first.
    pub fn i64(&mut self, value: i64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// One byte.
    pub fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    /// A length of four bytes, then the bytes. Longer ones than 4 GB do not exist here.
    pub fn bytes(&mut self, value: &[u8]) {
        self.u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.bytes.extend_from_slice(value);
    }

    /// A count, then the items.
    pub fn list<T: Coded>(&mut self, items: &[T]) {
        self.u32(u32::try_from(items.len()).unwrap_or(u32::MAX));
        for item in items {
            item.write(self);
        }
    }

    /// A count, then the numbers.
    pub fn numbers(&mut self, items: &[u64]) {
        self.u32(u32::try_from(items.len()).unwrap_or(u32::MAX));
        for item in items {
            self.u64(*item);
        }
    }

    /// Whether it is there, then it.
    pub fn option<T: Coded>(&mut self, value: Option<&T>) {
        self.bool(value.is_some());
        if let Some(value) = value {
            value.write(self);
        }
    }

    /// All of it.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Takes from the front.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Over these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let (front, rest) = self.rest.split_at_checked(count).ok_or(Malformed::Short(what))?;
        self.rest = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        self.take(N, what)?.try_into().map_err(|_| Malformed::Short(what))
    }

    /// One byte.
    ///
    /// # Errors
    /// There is none.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        Ok(u8::from_le_bytes(self.array(what)?))
    }

    /// Four bytes.
    ///
    /// # Errors
    /// There are fewer.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// There are fewer.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// There are fewer.
    pub fn i64(&mut self, what: &'static str) -> Result<i64, Malformed> {
        Ok(i64::from_le_bytes(self.array(what)?))
    }

    /// One byte, 0 or 1.
    ///
    /// # Errors
    /// There is none, or another one.
    pub fn bool(&mut self, what: &'static str) -> Result<bool, Malformed> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            number => Err(Malformed::Unknown { what, number }),
        }
    }

    /// Bytes with their length in front.
    ///
    /// # Errors
    /// There are fewer.
    pub fn bytes(&mut self, what: &'static str) -> Result<&'a [u8], Malformed> {
        let count = self.count(what)?;
        self.take(count, what)
    }

    /// A list with its count in front.
    ///
    /// # Errors
    /// It is cut off, or an item is malformed.
    pub fn list<T: Coded>(&mut self, what: &'static str) -> Result<Vec<T>, Malformed> {
        let count = self.items(what)?;
        (0..count).map(|_| T::read(self)).collect()
    }

    /// Numbers with their count in front.
    ///
    /// # Errors
    /// There are fewer.
    pub fn numbers(&mut self, what: &'static str) -> Result<Vec<u64>, Malformed> {
        let count = self.items(what)?;
        (0..count).map(|_| self.u64(what)).collect()
    }

    /// Something that may be absent.
    ///
    /// # Errors
    /// It is malformed.
    pub fn option<T: Coded>(&mut self, what: &'static str) -> Result<Option<T>, Malformed> {
        Ok(if self.bool(what)? { Some(T::read(self)?) } else { None })
    }

    /// Nothing may be left.
    ///
    /// # Errors
    /// Something is.
    pub fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed::Trailing(self.rest.len()))
        }
    }

    /// What was not read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn count(&mut self, what: &'static str) -> Result<usize, Malformed> {
        usize::try_from(self.u32(what)?).map_err(|_| Malformed::Long(what))
    }

    /// How many items follow. Each has a byte at least, so that a number from a peer never reserves more memory than it sent.
    fn items(&mut self, what: &'static str) -> Result<usize, Malformed> {
        let count = self.count(what)?;
        if count > self.rest.len() {
            return Err(Malformed::Short(what));
        }
        Ok(count)
    }
}

impl Coded for Vec<u8> {
    fn write(&self, out: &mut Writer) {
        out.bytes(self);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(from.bytes("a string")?.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::{Coded, Malformed, Reader, Writer};

    #[test]
    fn what_is_written_is_read() {
        let mut out = Writer::default();
        out.u8(7);
        out.u32(8);
        out.u64(u64::MAX);
        out.i64(-9);
        out.bool(true);
        out.bytes(b"abc");
        out.numbers(&[1, 2]);
        out.option(Some(&b"x".to_vec()));
        out.list(&[b"y".to_vec(), Vec::new()]);
        let bytes = out.finish();
        let mut from = Reader::new(&bytes);
        assert_eq!((from.u8(""), from.u32(""), from.u64("")), (Ok(7), Ok(8), Ok(u64::MAX)));
        assert_eq!((from.i64(""), from.bool(""), from.bytes("")), (Ok(-9), Ok(true), Ok(&b"abc"[..])));
        assert_eq!(from.numbers(""), Ok(vec![1, 2]));
        assert_eq!(from.option(""), Ok(Some(b"x".to_vec())));
        assert_eq!(from.list::<Vec<u8>>(""), Ok(vec![b"y".to_vec(), Vec::new()]));
        assert_eq!(from.end(), Ok(()));
    }

    #[test]
    fn lengths_are_not_trusted() {
        let huge = u32::MAX.to_le_bytes();
        assert_eq!(Vec::<u8>::from_bytes(&huge), Err(Malformed::Short("a string")));
        assert_eq!(Reader::new(&huge).list::<Vec<u8>>("a list"), Err(Malformed::Short("a list")));
        assert_eq!(Reader::new(&huge).numbers("numbers"), Err(Malformed::Short("numbers")));
        assert_eq!(Vec::<u8>::from_bytes(&[0, 0, 0, 0, 1]), Err(Malformed::Trailing(1)));
        assert_eq!(Reader::new(&[2]).bool("a flag"), Err(Malformed::Unknown { what: "a flag", number: 2 }));
    }
}
