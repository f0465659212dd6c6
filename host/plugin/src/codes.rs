//! The codes of the component host, FS2xxx.

farshore_core::code_pages! {
    /// The codes of this crate and their pages.
    2001 "A component cannot be compiled",
    2002 "A component's manifest is missing or wrong",
    2003 "A component was built for another version",
    2004 "A component cannot list machines",
    2005 "The component engine does not start",
    2010 "The settings of a site cannot be given to its component",
    2101 "A component reported an error",
    2102 "A component wanted what is not granted",
    2103 "A component did not end in time",
    2104 "A component broke",
    2105 "A component answered with nonsense",
    2106 "A component does not offer what was asked of it",
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
