//! Conditional writes, in the terms of etcd v3 (`Txn` in its `rpc.proto`): all conditions are compared at one revision, then one of two lists of
//! operations is carried out as a whole.

use super::codec::{Coded, Malformed, Reader, Writer};

/// A condition and what follows from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All of these must hold.
    pub when: Vec<Compare>,
    /// If they hold.
    pub then: Vec<Op>,
    /// If one does not.
    pub otherwise: Vec<Op>,
}

/// One condition on one key. An absent key has the number 0 everywhere and no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// Whose.
    pub key: Vec<u8>,
    /// How the key's property relates to the operand.
    pub order: Order,
    /// Which property, and with what it is compared.
    pub operand: Operand,
}

/// How two things are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `=`
    Equal,
    /// `>`
    Greater,
    /// `<`
    Less,
    /// `!=`
    NotEqual,
}

/// A property of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operand {
    /// The revision at which it was created.
    Created(i64),
    /// The revision at which it was changed last.
    Modified(i64),
    /// How often it was written since it was created.
    Version(i64),
    /// What it holds. Never equal to an absent key's.
    Value(Vec<u8>),
    /// The lease that it hangs on; 0: none.
    Lease(i64),
}

/// Some keys: one, or all from `key` on and below `end`, as in etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first one.
    pub key: Vec<u8>,
    /// Empty: only that one. A single zero byte: no end.
    pub end: Vec<u8>,
}

/// An operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Reads keys.
    Range(Span),
    /// Writes a key.
    Put {
        /// Which.
        key: Vec<u8>,
        /// What.
        value: Vec<u8>,
        /// With which it goes; 0: stays.
        lease: i64,
    },
    /// Deletes keys.
    Delete(Span),
}

impl Span {
    /// One key.
    #[must_use]
    pub fn one(key: impl Into<Vec<u8>>) -> Span {
        Span { key: key.into(), end: Vec::new() }
    }

    /// All keys that begin like this.
    #[must_use]
    pub fn prefix(prefix: impl Into<Vec<u8>>) -> Span {
        let key = prefix.into();
        let mut end = key.clone();
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                return Span { key, end };
            }
        }
        Span { key, end: vec![0] }
    }

    /// Whether a key is one of them.
    #[must_use]
    pub fn holds(&self, key: &[u8]) -> bool {
        match self.end.as_slice() {
            [] => key == self.key,
            [0] => key >= self.key.as_slice(),
            end => key >= self.key.as_slice() && key < end,
        }
    }
}

impl Coded for Txn {
    fn write(&self, out: &mut Writer) {
        out.list(&self.when);
        out.list(&self.then);
        out.list(&self.otherwise);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Txn { when: from.list("conditions")?, then: from.list("operations")?, otherwise: from.list("operations")? })
    }
}

impl Coded for Compare {
    fn write(&self, out: &mut Writer) {
        out.bytes(&self.key);
        out.u8(match self.order {
            Order::Equal => 0,
            Order::Greater => 1,
            Order::Less => 2,
            Order::NotEqual => 3,
        });
        let (kind, number) = match &self.operand {
            Operand::Created(number) => (0, *number),
            Operand::Modified(number) => (1, *number),
            Operand::Version(number) => (2, *number),
            Operand::Lease(number) => (3, *number),
            Operand::Value(value) => {
                out.u8(4);
                out.bytes(value);
                return;
            }
        };
        out.u8(kind);
        out.i64(number);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let key = from.bytes("a key")?.to_vec();
        let order = match from.u8("a comparison")? {
            0 => Order::Equal,
            1 => Order::Greater,
            2 => Order::Less,
            3 => Order::NotEqual,
            number => return Err(Malformed::Unknown { what: "a comparison", number }),
        };
        let operand = match from.u8("an operand")? {
            0 => Operand::Created(from.i64("an operand")?),
            1 => Operand::Modified(from.i64("an operand")?),
            2 => Operand::Version(from.i64("an operand")?),
            3 => Operand::Lease(from.i64("an operand")?),
            4 => Operand::Value(from.bytes("an operand")?.to_vec()),
            number => return Err(Malformed::Unknown { what: "an operand", number }),
        };
        Ok(Compare { key, order, operand })
    }
}

impl Coded for Span {
    fn write(&self, out: &mut Writer) {
        out.bytes(&self.key);
        out.bytes(&self.end);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Span { key: from.bytes("a key")?.to_vec(), end: from.bytes("a key")?.to_vec() })
    }
}

impl Coded for Op {
    fn write(&self, out: &mut Writer) {
        match self {
            Op::Range(span) => {
                out.u8(0);
                span.write(out);
            }
            Op::Put { key, value, lease } => {
                out.u8(1);
                out.bytes(key);
                out.bytes(value);
                out.i64(*lease);
            }
            Op::Delete(span) => {
                out.u8(2);
                span.write(out);
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match from.u8("an operation")? {
            0 => Ok(Op::Range(Span::read(from)?)),
            1 => {
                let (key, value) = (from.bytes("a key")?.to_vec(), from.bytes("a value")?.to_vec());
                Ok(Op::Put { key, value, lease: from.i64("a lease")? })
            }
            2 => Ok(Op::Delete(Span::read(from)?)),
            number => Err(Malformed::Unknown { what: "an operation", number }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Coded, Compare, Op, Operand, Order, Span, Txn};

    #[test]
    fn prefixes() {
        assert_eq!(Span::prefix("ab"), Span { key: b"ab".to_vec(), end: b"ac".to_vec() });
        assert_eq!(Span::prefix([0x61, 0xff]).end, b"b");
        assert_eq!(Span::prefix([0xff]).end, [0]);
        assert_eq!(Span::prefix("").end, [0]);
        let all = Span::prefix("/service/a/");
        assert!(all.holds(b"/service/a/leader") && !all.holds(b"/service/a") && !all.holds(b"/service/b/leader"));
        assert!(Span::one("a").holds(b"a") && !Span::one("a").holds(b"ab"));
        assert!(Span::prefix("").holds(b"\xff\xff"));
    }

    #[test]
    fn coded() {
        let operands = [Operand::Created(1), Operand::Modified(2), Operand::Version(3), Operand::Lease(-4), Operand::Value(b"v".to_vec())];
        let orders = [Order::Equal, Order::Greater, Order::Less, Order::NotEqual, Order::Equal];
        let when = operands.into_iter().zip(orders).map(|(operand, order)| Compare { key: b"k".to_vec(), order, operand }).collect();
        let put = Op::Put { key: b"k".to_vec(), value: b"v".to_vec(), lease: 7 };
        let txn = Txn { when, then: vec![put], otherwise: vec![Op::Range(Span::one("k")), Op::Delete(Span::prefix("p"))] };
        let bytes = txn.to_bytes();
        assert_eq!(Txn::from_bytes(&bytes), Ok(txn));
        for cut in 0..bytes.len() {
            assert!(Txn::from_bytes(&bytes[..cut]).is_err());
        }
    }
}
