//! The state's bytes, in snapshots and on the wire.

use super::{weight, Command, Record, State, MAX_REVISION};
use crate::dcs::embedded::codec::{Coded, Malformed, Reader, Writer};
use crate::dcs::embedded::request::Place;
use crate::dcs::embedded::txn::Txn;

impl Coded for Record {
    fn write(&self, out: &mut Writer) {
        out.bytes(&self.value);
        out.i64(self.created);
        out.i64(self.modified);
        out.i64(self.version);
        out.i64(self.lease);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Record {
            value: from.bytes("a value")?.to_vec(),
            created: from.i64("a revision")?,
            modified: from.i64("a revision")?,
            version: from.i64("a version")?,
            lease: from.i64("a lease")?,
        })
    }
}

impl Coded for Command {
    fn write(&self, out: &mut Writer) {
        match self {
            Command::Begin { cluster } => {
                out.u8(0);
                out.u64(*cluster);
            }
            Command::Grant { lease, ttl } => {
                out.u8(1);
                out.i64(*lease);
                out.u64(*ttl);
            }
            Command::Revoke { lease } => {
                out.u8(2);
                out.i64(*lease);
            }
            Command::Txn(txn) => {
                out.u8(3);
                txn.write(out);
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match from.u8("a command")? {
            0 => Ok(Command::Begin { cluster: from.u64("a cluster")? }),
            1 => Ok(Command::Grant { lease: from.i64("a lease")?, ttl: from.u64("a length")? }),
            2 => Ok(Command::Revoke { lease: from.i64("a lease")? }),
            3 => Ok(Command::Txn(Txn::read(from)?)),
            number => Err(Malformed::Unknown { what: "a command", number }),
        }
    }
}

/// Without the soft keys: this is what a snapshot holds.
impl Coded for State {
    fn write(&self, out: &mut Writer) {
        out.u64(self.cluster);
        out.i64(self.revision);
        out.list(&self.places.iter().map(|(node, place)| PlaceLine(*node, place.clone())).collect::<Vec<_>>());
        out.list(&self.leases.iter().map(|(lease, ttl)| LeaseLine(*lease, *ttl)).collect::<Vec<_>>());
        out.list(&self.keys.iter().map(|(key, record)| KeyLine(key.clone(), record.clone())).collect::<Vec<_>>());
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut state = State { cluster: from.u64("a cluster")?, revision: from.i64("a revision")?, ..State::default() };
        if state.revision >= MAX_REVISION {
            return Err(Malformed::Invalid("a revision"));
        }
        state.places = from.list::<PlaceLine>("boxes")?.into_iter().map(|line| (line.0, line.1)).collect();
        state.leases = from.list::<LeaseLine>("leases")?.into_iter().map(|line| (line.0, line.1)).collect();
        for KeyLine(key, record) in from.list::<KeyLine>("keys")? {
            state.size += weight(&key, &record.value);
            if state.keys.insert(key, record).is_some() {
                return Err(Malformed::Invalid("a key that is there twice"));
            }
        }
        Ok(state)
    }
}

/// A box in a snapshot.
struct PlaceLine(u64, Place);

impl Coded for PlaceLine {
    fn write(&self, out: &mut Writer) {
        out.u64(self.0);
        self.1.write(out);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(PlaceLine(from.u64("a box's number")?, Place::read(from)?))
    }
}

/// A lease in a snapshot.
struct LeaseLine(i64, u64);

impl Coded for LeaseLine {
    fn write(&self, out: &mut Writer) {
        out.i64(self.0);
        out.u64(self.1);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(LeaseLine(from.i64("a lease")?, from.u64("a length")?))
    }
}

/// A key in a snapshot, or a soft key on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyLine(pub Vec<u8>, pub Record);

impl Coded for KeyLine {
    fn write(&self, out: &mut Writer) {
        out.bytes(&self.0);
        self.1.write(out);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(KeyLine(from.bytes("a key")?.to_vec(), Record::read(from)?))
    }
}
