//! Every page of `docs/` can be found from the README.

use std::fs;
use std::path::Path;

#[test]
fn the_readme_links_every_page_of_the_documentation() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).expect("a README");
    let pages = fs::read_dir(root.join("docs")).expect("documentation");
    // What is in a folder is a page's pictures.
    let pages = pages.map(|page| page.expect("a page")).filter(|page| page.path().is_file());
    let pages: Vec<_> = pages.map(|page| page.file_name().into_string().expect("UTF-8")).collect();
    assert!(!pages.is_empty());
    for page in pages {
        assert!(readme.contains(&format!("](docs/{page})")), "docs/{page} is not linked");
    }
}
