//! The codes of the component host, FS2xxx.

use farshore_core::{Code, CodePage};

macro_rules! pages {
    ($($number:literal $title:literal),* $(,)?) => {
        /// The codes of this crate and their pages.
        pub static CODES: &[CodePage] = &[$(CodePage {
            code: Code::new($number),
            title: $title,
            page: include_str!(concat!("../codes/FS", stringify!($number), ".md")),
        }),*];
    };
}

pages! {
    2001 "a component cannot be compiled",
    2002 "a component's manifest is missing or wrong",
    2003 "a component was built for another version",
    2004 "a component cannot list machines",
    2005 "the component engine does not start",
    2010 "the settings of a site cannot be given to its component",
    2101 "a component reported an error",
    2102 "a component wanted what is not granted",
    2103 "a component did not end in time",
    2104 "a component broke",
    2105 "a component answered with nonsense",
    2106 "a component does not offer what was asked of it",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_says_what_to_do() {
        for page in CODES {
            for part in ["## What happened", "## What to do"] {
                assert!(page.page.contains(part), "{} lacks {part}", page.code);
            }
        }
    }
}
