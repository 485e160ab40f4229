//! Talking with the operator: output that survives a closed pipe, questions, confirmations.

use std::io::{self, BufRead, Write};

use super::error::Error;

/// Where answers come from and where output goes.
pub struct Console<'a> {
    input: &'a mut dyn BufRead,
    output: &'a mut dyn Write,
    errors: &'a mut dyn Write,
    /// Output is a terminal.
    pub is_terminal: bool,
}

impl<'a> Console<'a> {
    /// A console over any streams.
    pub fn new(input: &'a mut dyn BufRead, output: &'a mut dyn Write, errors: &'a mut dyn Write, is_terminal: bool) -> Console<'a> {
        Console { input, output, errors, is_terminal }
    }

    /// Says something that is not part of the result. That nobody listens is no error.
    pub fn note(&mut self, text: &str) {
        let _ = writeln!(self.errors, "{text}");
    }

    /// Prints a text as it is.
    ///
    /// # Errors
    /// [`Error::Output`] where nobody reads any more.
    pub fn print(&mut self, text: &str) -> Result<(), Error> {
        self.output.write_all(text.as_bytes()).and_then(|()| self.output.flush()).map_err(Error::Output)
    }

    /// Prints a line.
    ///
    /// # Errors
    /// As [`Console::print`].
    pub fn line(&mut self, text: &str) -> Result<(), Error> {
        self.print(&format!("{text}\n"))
    }

    fn answer(&mut self) -> Result<String, Error> {
        let mut answer = String::new();
        match self.input.read_line(&mut answer) {
            Ok(0) => Err(Error::Aborted),
            Ok(_) => Ok(answer.trim().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(String::new()),
            Err(_) => Err(Error::Aborted),
        }
    }

    /// Asks for a text; an empty answer means the default, without one the question is asked again.
    ///
    /// # Errors
    /// [`Error::Aborted`] at the end of the input.
    pub fn ask(&mut self, question: &str, default: Option<&str>) -> Result<String, Error> {
        let hint = default.map(|default| format!(" [{default}]")).unwrap_or_default();
        loop {
            self.print(&format!("{question}{hint}: "))?;
            let answer = self.answer()?;
            match default {
                _ if !answer.is_empty() => return Ok(answer),
                Some(default) => return Ok(default.to_owned()),
                None => {}
            }
        }
    }

    /// Asks for a secret; a terminal does not show what is typed.
    ///
    /// # Errors
    /// As [`Console::ask`].
    pub fn ask_secret(&mut self, question: &str) -> Result<String, Error> {
        use rustix::termios::{tcgetattr, tcsetattr, LocalModes, OptionalActions};
        let stdin = io::stdin();
        let before = tcgetattr(&stdin).ok().filter(|_| self.is_terminal);
        if let Some(mut silent) = before.clone() {
            silent.local_modes.remove(LocalModes::ECHO);
            let _ = tcsetattr(&stdin, OptionalActions::Flush, &silent);
        }
        let answer = self.ask(question, None);
        if let Some(before) = before {
            let _ = tcsetattr(&stdin, OptionalActions::Flush, &before);
            self.print("\n")?;
        }
        answer
    }

    /// Asks yes or no; no is the default.
    ///
    /// # Errors
    /// As [`Console::ask`].
    pub fn confirm(&mut self, question: &str) -> Result<bool, Error> {
        loop {
            self.print(&format!("{question} [y/N]: "))?;
            match self.answer()?.to_ascii_lowercase().as_str() {
                "y" | "yes" => return Ok(true),
                "" | "n" | "no" => return Ok(false),
                _ => self.line("Error: invalid input")?,
            }
        }
    }

    /// All of the input, for `--apply -`.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn read_all(&mut self) -> Result<String, Error> {
        let mut text = String::new();
        self.input.read_to_string(&mut text).map_err(|source| Error::Read { path: "-".into(), source })?;
        Ok(text)
    }

    /// Clears the screen, if it is one.
    ///
    /// # Errors
    /// As [`Console::print`].
    pub fn clear(&mut self) -> Result<(), Error> {
        if self.is_terminal {
            self.print("\x1b[2J\x1b[1;1H")?;
        }
        Ok(())
    }
}
