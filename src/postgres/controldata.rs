//! `global/pg_control`: parsed from its bytes, without a child process; the text of `pg_controldata` where the layout is unknown.
//!
//! Layouts known: `pg_control` versions 1300 (PostgreSQL 13 to 16), 1700 (17) and 1800 (18), little-endian, 8-byte alignment of
//! 64-bit fields (x86-64, aarch64, ARM EABI). Where one of these assumptions does not hold the checksum does not match, and the
//! caller asks `pg_controldata` instead ([`parse_text`]). The fields that are read sit at the same place in all three layouts:
//! 18 put `wal_level` of the checkpoint into former padding and `default_char_signedness` behind the checksum version, which
//! moves only the file's own CRC.

use std::path::{Path, PathBuf};

use crate::ha::types::{Lsn, SystemId, Timeline};
use crate::ha::view::{ControlData, ControlState};

/// What can go wrong with `pg_control`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Fewer bytes than the structure has.
    #[error("pg_control ends after {len} bytes, {need} are needed: the file is damaged")]
    Truncated {
        /// Bytes there.
        len: usize,
        /// Bytes needed.
        need: usize,
    },
    /// A layout that this program does not know; [`parse_text`] can help.
    #[error("pg_control has the format version {0}, which is not known here (PostgreSQL 13 to 18 are)")]
    UnknownVersion(u32),
    /// The CRC does not match: damaged, torn while it was written, or of a machine with another byte order or alignment.
    #[error("the checksum of pg_control does not match its content: the file is damaged or from another kind of machine")]
    Checksum,
    /// A `DBState` that does not exist.
    #[error("pg_control names the cluster state {0}, which does not exist")]
    UnknownState(u32),
    /// A line that the text of `pg_controldata` should have, and has not.
    #[error("pg_controldata printed no usable line {0:?}")]
    Text(&'static str),
}

impl Error {
    /// Whether `pg_controldata` of the server's own version may still be able to read the file.
    #[must_use]
    pub fn ask_pg_controldata(&self) -> bool {
        matches!(self, Error::UnknownVersion(_) | Error::Checksum | Error::UnknownState(_))
    }
}

/// The whole of what is read from `pg_control`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// What the core decides by.
    pub data: ControlData,
    /// The rest.
    pub settings: ControlSettings,
}

/// Settings of the server that wrote the WAL, and other facts. A standby must be started with values at least as high.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlSettings {
    /// `PG_CONTROL_VERSION`.
    pub control_version: u32,
    /// `CATALOG_VERSION_NO`.
    pub catalog_version: u32,
    /// Where replay of the latest checkpoint begins.
    pub redo: Lsn,
    /// The timeline before the one of the latest checkpoint (equal where none began there).
    pub previous_timeline: Timeline,
    /// A base backup's start, while it is being restored; zero otherwise.
    pub backup_start: Lsn,
    /// A base backup's end, if it was taken from a standby; zero otherwise.
    pub backup_end: Lsn,
    /// The end of a base backup must be seen in the WAL before the data is consistent.
    pub backup_end_required: bool,
    /// `wal_level` in effect when the WAL was written.
    pub wal_level: WalLevel,
    /// `wal_log_hints`.
    pub wal_log_hints: bool,
    /// `max_connections`.
    pub max_connections: i32,
    /// `max_worker_processes`.
    pub max_worker_processes: i32,
    /// `max_wal_senders`.
    pub max_wal_senders: i32,
    /// `max_prepared_transactions`.
    pub max_prepared_transactions: i32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_transaction: i32,
    /// `track_commit_timestamp`.
    pub track_commit_timestamp: bool,
    /// Version of the data page checksums; zero: none.
    pub data_checksum_version: u32,
    /// Bytes of one WAL segment.
    pub wal_segment_size: u32,
}

/// `wal_level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalLevel {
    /// `minimal`: no standby can follow.
    Minimal,
    /// `replica`.
    Replica,
    /// `logical`.
    Logical,
}

/// Offsets that differ between versions.
struct Layout {
    crc: usize,
}

fn layout(control_version: u32) -> Option<Layout> {
    match control_version {
        1300 | 1700 => Some(Layout { crc: 288 }),
        1800 => Some(Layout { crc: 292 }),
        _ => None,
    }
}

mod offset {
    pub(super) const VERSION: usize = 8;
    pub(super) const CATALOG: usize = 12;
    pub(super) const STATE: usize = 16;
    pub(super) const CHECKPOINT: usize = 32;
    pub(super) const REDO: usize = 40;
    pub(super) const THIS_TLI: usize = 48;
    pub(super) const PREV_TLI: usize = 52;
    pub(super) const MIN_RECOVERY: usize = 136;
    pub(super) const MIN_RECOVERY_TLI: usize = 144;
    pub(super) const BACKUP_START: usize = 152;
    pub(super) const BACKUP_END: usize = 160;
    pub(super) const BACKUP_END_REQUIRED: usize = 168;
    pub(super) const WAL_LEVEL: usize = 172;
    pub(super) const WAL_LOG_HINTS: usize = 176;
    pub(super) const MAX_CONNECTIONS: usize = 180;
    pub(super) const MAX_WORKER_PROCESSES: usize = 184;
    pub(super) const MAX_WAL_SENDERS: usize = 188;
    pub(super) const MAX_PREPARED_XACTS: usize = 192;
    pub(super) const MAX_LOCKS_PER_XACT: usize = 196;
    pub(super) const TRACK_COMMIT_TIMESTAMP: usize = 200;
    pub(super) const XLOG_SEG_SIZE: usize = 228;
    pub(super) const DATA_CHECKSUM_VERSION: usize = 252;
}

/// Reads fields out of the bytes; every access is checked.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> Result<[u8; N], Error> {
        let need = at.saturating_add(N);
        let slice = self.0.get(at..need).ok_or(Error::Truncated { len: self.0.len(), need })?;
        slice.try_into().map_err(|_| Error::Truncated { len: self.0.len(), need })
    }
    fn u32(&self, at: usize) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.bytes(at)?))
    }
    fn i32(&self, at: usize) -> Result<i32, Error> {
        Ok(i32::from_le_bytes(self.bytes(at)?))
    }
    fn u64(&self, at: usize) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.bytes(at)?))
    }
    fn bool(&self, at: usize) -> Result<bool, Error> {
        Ok(self.bytes::<1>(at)? != [0])
    }
    fn lsn(&self, at: usize) -> Result<Lsn, Error> {
        Ok(Lsn(self.u64(at)?))
    }
    fn timeline(&self, at: usize) -> Result<Timeline, Error> {
        Ok(Timeline(self.u32(at)?))
    }
}

/// Parses the content of `global/pg_control`.
///
/// # Errors
/// See [`Error`]; no input panics. Where [`Error::ask_pg_controldata`] is true, the server's own tool may still read it.
pub fn parse(bytes: &[u8]) -> Result<ControlFile, Error> {
    let fields = Fields(bytes);
    let control_version = fields.u32(offset::VERSION)?;
    let layout = layout(control_version).ok_or(Error::UnknownVersion(control_version))?;
    let stored = fields.u32(layout.crc)?;
    let covered = bytes.get(..layout.crc).ok_or(Error::Truncated { len: bytes.len(), need: layout.crc })?;
    if crc32c(covered) != stored {
        return Err(Error::Checksum);
    }
    let settings = settings(&fields, control_version)?;
    let data = ControlData {
        system_id: SystemId(fields.u64(0)?),
        state: state_from_number(fields.u32(offset::STATE)?)?,
        timeline: fields.timeline(offset::THIS_TLI)?,
        checkpoint: fields.lsn(offset::CHECKPOINT)?,
        min_recovery_end: fields.lsn(offset::MIN_RECOVERY)?,
        min_recovery_timeline: fields.timeline(offset::MIN_RECOVERY_TLI)?,
        can_rewind: settings.wal_log_hints || settings.data_checksum_version != 0,
        is_copy: false,
    };
    Ok(ControlFile { data, settings })
}

fn settings(fields: &Fields<'_>, control_version: u32) -> Result<ControlSettings, Error> {
    Ok(ControlSettings {
        control_version,
        catalog_version: fields.u32(offset::CATALOG)?,
        redo: fields.lsn(offset::REDO)?,
        previous_timeline: fields.timeline(offset::PREV_TLI)?,
        backup_start: fields.lsn(offset::BACKUP_START)?,
        backup_end: fields.lsn(offset::BACKUP_END)?,
        backup_end_required: fields.bool(offset::BACKUP_END_REQUIRED)?,
        wal_level: match fields.u32(offset::WAL_LEVEL)? {
            0 => WalLevel::Minimal,
            1 => WalLevel::Replica,
            _ => WalLevel::Logical,
        },
        wal_log_hints: fields.bool(offset::WAL_LOG_HINTS)?,
        max_connections: fields.i32(offset::MAX_CONNECTIONS)?,
        max_worker_processes: fields.i32(offset::MAX_WORKER_PROCESSES)?,
        max_wal_senders: fields.i32(offset::MAX_WAL_SENDERS)?,
        max_prepared_transactions: fields.i32(offset::MAX_PREPARED_XACTS)?,
        max_locks_per_transaction: fields.i32(offset::MAX_LOCKS_PER_XACT)?,
        track_commit_timestamp: fields.bool(offset::TRACK_COMMIT_TIMESTAMP)?,
        data_checksum_version: fields.u32(offset::DATA_CHECKSUM_VERSION)?,
        wal_segment_size: fields.u32(offset::XLOG_SEG_SIZE)?,
    })
}

fn state_from_number(number: u32) -> Result<ControlState, Error> {
    Ok(match number {
        0 => ControlState::StartingUp,
        1 => ControlState::ShutDown,
        2 => ControlState::ShutDownInRecovery,
        3 => ControlState::ShuttingDown,
        4 => ControlState::InCrashRecovery,
        5 => ControlState::InArchiveRecovery,
        6 => ControlState::InProduction,
        other => return Err(Error::UnknownState(other)),
    })
}

/// Where `pg_control` of a data directory is.
#[must_use]
pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("global").join("pg_control")
}

/// Reads and parses `global/pg_control`. Safe beside a running server: a read that was torn by a write is repeated.
///
/// # Errors
/// See [`Error`].
pub fn read(data_dir: &Path) -> Result<ControlFile, Error> {
    let path = path(data_dir);
    let mut result = Err(Error::Checksum);
    for _ in 0..5 {
        let bytes = std::fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        result = parse(&bytes);
        if !matches!(result, Err(Error::Checksum | Error::Truncated { .. })) {
            break;
        }
    }
    result
}

/// Parses what `pg_controldata` prints with `LC_ALL=C`.
///
/// # Errors
/// [`Error::Text`] names the line that is missing or makes no sense.
pub fn parse_text(text: &str) -> Result<ControlFile, Error> {
    let lines = Lines(text);
    let wal_log_hints = lines.switch("wal_log_hints setting");
    let data_checksum_version = lines.number("Data page checksum version")?;
    let data = ControlData {
        system_id: SystemId(lines.number("Database system identifier")?),
        state: lines.state()?,
        timeline: Timeline(lines.number("Latest checkpoint's TimeLineID")?),
        checkpoint: lines.lsn("Latest checkpoint location")?,
        min_recovery_end: lines.lsn("Minimum recovery ending location")?,
        min_recovery_timeline: Timeline(lines.number("Min recovery ending loc's timeline")?),
        can_rewind: wal_log_hints || data_checksum_version != 0,
        is_copy: false,
    };
    let settings = ControlSettings {
        control_version: lines.number("pg_control version number")?,
        catalog_version: lines.number("Catalog version number")?,
        redo: lines.lsn("Latest checkpoint's REDO location")?,
        previous_timeline: Timeline(lines.number("Latest checkpoint's PrevTimeLineID")?),
        backup_start: lines.lsn("Backup start location")?,
        backup_end: lines.lsn("Backup end location")?,
        backup_end_required: lines.get("End-of-backup record required") == Some("yes"),
        wal_level: match lines.get("wal_level setting") {
            Some("minimal") => WalLevel::Minimal,
            Some("logical") => WalLevel::Logical,
            Some(_) => WalLevel::Replica,
            None => return Err(Error::Text("wal_level setting")),
        },
        wal_log_hints,
        max_connections: lines.number("max_connections setting")?,
        max_worker_processes: lines.number("max_worker_processes setting")?,
        max_wal_senders: lines.number("max_wal_senders setting")?,
        max_prepared_transactions: lines.number("max_prepared_xacts setting")?,
        max_locks_per_transaction: lines.number("max_locks_per_xact setting")?,
        track_commit_timestamp: lines.switch("track_commit_timestamp setting"),
        data_checksum_version,
        wal_segment_size: lines.number("Bytes per WAL segment")?,
    };
    Ok(ControlFile { data, settings })
}

/// The `label: value` lines of `pg_controldata`.
struct Lines<'a>(&'a str);

impl<'a> Lines<'a> {
    fn get(&self, label: &str) -> Option<&'a str> {
        self.0.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == label).then_some(value.trim())
        })
    }
    fn number<T: std::str::FromStr>(&self, label: &'static str) -> Result<T, Error> {
        self.get(label).and_then(|value| value.parse().ok()).ok_or(Error::Text(label))
    }
    fn lsn(&self, label: &'static str) -> Result<Lsn, Error> {
        self.get(label).and_then(Lsn::parse).ok_or(Error::Text(label))
    }
    fn switch(&self, label: &str) -> bool {
        self.get(label) == Some("on")
    }
    fn state(&self) -> Result<ControlState, Error> {
        const LABEL: &str = "Database cluster state";
        Ok(match self.get(LABEL) {
            Some("starting up") => ControlState::StartingUp,
            Some("shut down") => ControlState::ShutDown,
            Some("shut down in recovery") => ControlState::ShutDownInRecovery,
            Some("shutting down") => ControlState::ShuttingDown,
            Some("in crash recovery") => ControlState::InCrashRecovery,
            Some("in archive recovery") => ControlState::InArchiveRecovery,
            Some("in production") => ControlState::InProduction,
            _ => return Err(Error::Text(LABEL)),
        })
    }
}

/// CRC-32C (Castagnoli) as PostgreSQL computes it. Bit by bit: 300 bytes now and then need no table.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let carry = crc & 1;
            crc >>= 1;
            if carry != 0 {
                crc ^= 0x82F6_3B78;
            }
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::{crc32c, parse, parse_text, ControlFile, Error, WalLevel};
    use crate::ha::types::{Lsn, SystemId, Timeline};
    use crate::ha::view::ControlState;

    /// The first 512 bytes of files that real servers wrote: after a clean stop, and of a standby that was killed.
    macro_rules! fixture {
        ($name:literal) => {
            include_bytes!(concat!("../../tests/pgdata/control/", $name, ".bin")).as_slice()
        };
    }

    /// What a server said in SQL (`pg_control_system()` and its siblings).
    struct Said {
        major: i32,
        identifier: u64,
        catalog: u32,
        control: u32,
        checksums: u32,
        checkpoint: &'static str,
    }

    fn check(bytes: &[u8], standby: &[u8], said: &Said) {
        let Said { major, identifier, catalog, control, checksums, checkpoint } = *said;
        let file = parse(bytes).unwrap();
        assert_eq!(file.data.system_id, SystemId(identifier));
        assert_eq!((file.data.state, file.data.timeline), (ControlState::ShutDown, Timeline(1)));
        assert_eq!((file.data.min_recovery_end, file.data.min_recovery_timeline), (Lsn(0), Timeline(0)));
        let settings = file.settings;
        assert_eq!((settings.catalog_version, settings.control_version), (catalog, control));
        assert_eq!(settings.max_connections, 100 + major);
        assert_eq!(settings.max_worker_processes, major - 4);
        assert_eq!(settings.max_wal_senders, major - 6);
        assert_eq!(settings.max_prepared_transactions, major - 10);
        assert_eq!(settings.max_locks_per_transaction, major + 60);
        assert!(settings.track_commit_timestamp);
        assert_eq!(settings.wal_log_hints, major != 14);
        assert_eq!(settings.data_checksum_version, checksums);
        assert!(file.data.can_rewind);
        assert_eq!(settings.wal_level, if major == 16 { WalLevel::Logical } else { WalLevel::Replica });
        assert_eq!(settings.wal_segment_size, 16 * 1024 * 1024);
        assert_eq!(settings.previous_timeline, Timeline(1));

        let standby = parse(standby).unwrap();
        assert_eq!(standby.data.state, ControlState::InArchiveRecovery);
        assert_eq!(Some(standby.data.checkpoint), Lsn::parse(checkpoint));
        assert_eq!(Some(standby.settings.redo), Lsn::parse(checkpoint));
        assert_eq!(Some(standby.data.min_recovery_end), Lsn::parse(checkpoint));
        assert_eq!(standby.data.min_recovery_timeline, Timeline(1));
        assert_eq!(standby.data.system_id, SystemId(identifier));
    }

    #[test]
    fn all_supported_versions() {
        let said = Said {
            major: 13,
            identifier: 7_710_535_451_907_750_329,
            catalog: 202_007_201,
            control: 1300,
            checksums: 0,
            checkpoint: "0/15C4AC8",
        };
        check(fixture!("13-shut-down"), fixture!("13-in-archive-recovery"), &said);
        let said = Said {
            major: 14,
            identifier: 7_710_535_456_413_620_783,
            catalog: 202_107_181,
            control: 1300,
            checksums: 1,
            checkpoint: "0/19432F0",
        };
        check(fixture!("14-shut-down"), fixture!("14-in-archive-recovery"), &said);
        let said = Said {
            major: 15,
            identifier: 7_710_535_461_587_299_041,
            catalog: 202_209_061,
            control: 1300,
            checksums: 0,
            checkpoint: "0/1500868",
        };
        check(fixture!("15-shut-down"), fixture!("15-in-archive-recovery"), &said);
        let said = Said {
            major: 16,
            identifier: 7_710_535_466_118_204_275,
            catalog: 202_307_071,
            control: 1300,
            checksums: 1,
            checkpoint: "0/1721100",
        };
        check(fixture!("16-shut-down"), fixture!("16-in-archive-recovery"), &said);
        let said = Said {
            major: 17,
            identifier: 7_710_535_471_915_600_944,
            catalog: 202_406_281,
            control: 1700,
            checksums: 1,
            checkpoint: "0/1721A20",
        };
        check(fixture!("17-shut-down"), fixture!("17-in-archive-recovery"), &said);
        let said = Said {
            major: 18,
            identifier: 7_710_535_478_907_456_780,
            catalog: 202_506_291,
            control: 1800,
            checksums: 1,
            checkpoint: "0/174B3D0",
        };
        check(fixture!("18-shut-down"), fixture!("18-in-archive-recovery"), &said);
    }

    #[test]
    fn the_text_of_pg_controldata_says_the_same() {
        let text = |text: &str| -> ControlFile { parse_text(text).unwrap() };
        let stopped = text(include_str!("../../tests/pgdata/control/15-shut-down.txt"));
        assert_eq!(stopped, parse(fixture!("15-shut-down")).unwrap());
        let standby = text(include_str!("../../tests/pgdata/control/15-in-archive-recovery.txt"));
        assert_eq!(standby, parse(fixture!("15-in-archive-recovery")).unwrap());
    }

    #[test]
    fn text_cut_anywhere_is_an_error_or_a_value() {
        let text = include_str!("../../tests/pgdata/control/15-shut-down.txt");
        for end in 0..text.len() {
            let _ = parse_text(&text[..end]);
        }
        assert!(matches!(parse_text(""), Err(Error::Text(_))));
    }

    #[test]
    fn every_truncation_is_an_error() {
        for (bytes, crc_end) in [(fixture!("15-shut-down"), 292), (fixture!("17-shut-down"), 292), (fixture!("18-shut-down"), 296)] {
            for end in 0..crc_end {
                assert!(parse(&bytes[..end]).is_err(), "{end} bytes");
            }
            assert!(parse(&bytes[..crc_end]).is_ok());
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for (bytes, crc_end) in [(fixture!("15-shut-down"), 292), (fixture!("18-in-archive-recovery"), 296)] {
            for bit in 0..crc_end * 8 {
                let mut damaged = bytes.to_vec();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(parse(&damaged).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn odd_bytes_never_panic() {
        let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
        for length in 0..600 {
            let mut bytes: Vec<u8> = (0..length)
                .map(|_| {
                    seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    (seed >> 33) as u8
                })
                .collect();
            assert!(parse(&bytes).is_err());
            if length > 12 {
                bytes[8..12].copy_from_slice(&1800u32.to_le_bytes());
                assert!(parse(&bytes).is_err());
            }
        }
    }

    #[test]
    fn unknown_versions_ask_for_the_tool() {
        let mut bytes = fixture!("18-shut-down").to_vec();
        bytes[8..12].copy_from_slice(&1900u32.to_le_bytes());
        let error = parse(&bytes).unwrap_err();
        assert!(matches!(error, Error::UnknownVersion(1900)) && error.ask_pg_controldata());
        assert!(parse(&[]).unwrap_err().to_string().contains("ends after 0 bytes"));
    }

    #[test]
    fn unknown_state_is_named() {
        let mut bytes = fixture!("15-shut-down").to_vec();
        bytes[16] = 9;
        let crc = crc32c(&bytes[..288]);
        bytes[288..292].copy_from_slice(&crc.to_le_bytes());
        assert!(matches!(parse(&bytes), Err(Error::UnknownState(9))));
    }

    #[test]
    fn crc32c_check_value() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = super::read(std::path::Path::new("/nonexistent")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/global/pg_control"));
    }
}
