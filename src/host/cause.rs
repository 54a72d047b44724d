//! What the system says, worded for the end of one of our sentences.

use std::io;

/// `permission denied`: lower-case, and without the number of the error.
pub fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_the_error_is_left_out() {
        assert_eq!(plain(&io::Error::from_raw_os_error(libc::EACCES)), "permission denied");
        assert_eq!(plain(&io::Error::other("Certificate expired")), "certificate expired");
    }
}
