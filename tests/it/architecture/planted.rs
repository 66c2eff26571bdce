//! Violations planted in texts: each rule finds them, and finds nothing else.

use super::rules::{circles, crowded, fences, floors, named_badly, words};
use super::source::Tree;
use super::{EMPTY_NAMES, MAX_LINES, MAY_USE, ONLY_IN};

/// A ground floor, and two parts above it that know nothing of each other. `low/sub` is a part in a part.
const ROWS: &[(&str, &[&str])] =
    &[("ground", &[]), ("low", &["ground", "low/sub"]), ("low/sub", &["ground"]), ("high", &["ground"]), ("lib", &[])];

fn tree(files: &[(&str, &str)]) -> Tree {
    Tree::new(files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect())
}

/// What the fences find in `low/planted.rs`, which must not name `high`.
fn planted(text: &str) -> Vec<String> {
    fences(&tree(&[("lib.rs", ""), ("high/mod.rs", ""), ("low/mod.rs", ""), ("low/planted.rs", text)]), ROWS)
}

#[test]
fn every_import_that_no_row_allows_is_found() {
    let inside = MAY_USE.iter().filter(|(part, _)| !matches!(*part, "lib" | "main"));
    for (part, may_use) in inside.clone() {
        for (other, _) in inside.clone().filter(|(other, _)| other != part) {
            let name = format!("{part}/planted.rs");
            let text = format!("use crate::{}::Planted;\n", other.replace('/', "::"));
            let found = fences(&tree(&[(&name, &text)]), MAY_USE);
            assert_eq!(found.len(), usize::from(!may_use.contains(other)), "{part} {other} {found:?}");
        }
    }
    let main = |path| fences(&tree(&[("main.rs", &format!("fn main() {{ d8_registry::{path}::run(); }}"))]), MAY_USE);
    assert_eq!((main("cli").len(), main("server").len()), (0, 1));
}

#[test]
fn an_import_is_found_in_every_form() {
    for text in [
        "use crate::high;",
        "use crate::high::Thing;",
        "use crate::high::*;",
        "use crate::{ground, high::inner::Thing};",
        "use crate::{\n    ground::{self, Timestamp},\n    high::{self as other, inner},\n};",
        "use crate :: high;",
        "use crate::*;",
        "use crate as root;",
        "use super::super::high::Thing;",
        "use super::{super::high::Thing, own};",
        "use self::super::super::high;",
        "pub use crate::high::Thing;",
        "pub(crate) use crate::high::Thing;",
        "fn run() { crate::high::run(); }",
        "fn run() { for thing in crate::high::things() {} }",
        "fn run(thing: &super::super::high::Thing) {}",
        "impl From<crate::high::Thing> for Own {}",
        "macro_rules! own { () => { $crate::high::run() }; }",
        "mod inner;\nuse crate::high as upper; fn run() {}",
        "#[cfg(feature = \"failpoints\")]\nuse crate::high;",
        "#[cfg(not(test))]\nuse crate::high;",
    ] {
        assert!(!planted(text).is_empty(), "{text}");
    }
}

#[test]
fn what_follows_a_test_or_a_literal_is_read() {
    for before in [
        "#[cfg(test)]\nmod tests;",
        "#[cfg(test)]\npub(super) mod tests { const A: char = '}'; const B: char = '\\''; }",
        "#[cfg(test)]\npub(crate) use own::{a, b};",
        "#[cfg(test)]\n#[must_use]\nfn only<A, B>(a: [u8; 3]) -> &'static str { \"}\\\"}\" }",
        "#[cfg(test)]\nconst ONLY: Own = Own { a: [0; 3] };",
        "#[cfg(test)]\nconst fn only() {}",
        "#[cfg(test)]\nstruct Only(u8);",
        "#[cfg(test)]\nimpl Own { fn only() {} }",
        "#[cfg(test)]\nmacro_rules! only { () => {}; }",
        "struct Own { #[cfg(test)] only: Vec<u8>, other: u8 }",
        "struct Own { #[cfg(test)] only: u8 }",
        "fn own() { #[cfg(test)] let only = Own { a: 1 }; }",
        "fn own() { match a { #[cfg(test)] A::B => (1, 2), _ => {} } }",
        "const OWN: &str = r#\"quote \" and #[cfg(test)] fn a() {\"#;",
        "const OWN: &[u8] = br\"\\\";",
        "const OWN: &str = \"// \\\" /*\";",
        "const OWN: char = '\"';",
        "const OWN: char = '→';",
        "fn own<'a>(a: &'a str) -> impl Own + use<'a> {}",
        "// fn own() { \" '",
        "/* { /* \" */ { */",
        "mod tests { use own::a; }",
    ] {
        assert_eq!(planted(before), [""; 0], "{before}");
        assert_eq!(planted(&format!("{before}\nuse crate::high;")).len(), 1, "{before}");
    }
}

#[test]
fn tests_comments_and_text_name_what_they_like() {
    for text in [
        "#[cfg(test)]\nmod tests {\n    use crate::high::Thing;\n}",
        "#[cfg(test)]\nuse crate::high::Thing;",
        "#[cfg(test)]\nfn only() { crate::high::run() }",
        "#[cfg(test)]\nconst ONLY: u8 = crate::high::ONLY;",
        "struct Own { #[cfg(test)] only: crate::high::Thing, other: u8 }",
        "// use crate::high;",
        "//! See [`crate::high`].\n/// [`crate::high::Thing`]\nfn own() {}",
        "/* use crate::high; */",
        "const OWN: &str = \"use crate::high;\";",
        "pub(in crate::low) fn own() {}",
        "use high::Thing;",
        "use own::crate_high;",
    ] {
        assert_eq!(planted(text), [""; 0], "{text}");
    }
}

#[test]
fn a_file_is_a_test_only_where_it_is_declared_as_one() {
    let found = |declared: &str| {
        let texts =
            [("low/mod.rs", declared), ("low/tests.rs", "mod more;"), ("low/tests/more.rs", "use crate::high;")];
        fences(&tree(&[&texts[..], &[("high/mod.rs", "")][..]].concat()), ROWS).len()
    };
    assert_eq!(found("#[cfg(test)]\nmod tests;"), 0);
    assert_eq!(found("#[cfg(test)]\npub(crate) mod tests;"), 0);
    assert_eq!(found("mod tests;"), 1);
}

#[test]
fn a_re_export_opens_no_gate() {
    let texts = [("ground/mod.rs", "pub use crate::high::Thing;"), ("low/mod.rs", "use crate::ground::Thing;")];
    let found = fences(&tree(&texts), ROWS);
    assert_eq!(found, ["ground/mod.rs uses high (high::Thing)", "low/mod.rs uses high (high::Thing)"]);
    // Nor does one inside the part that may have it.
    let texts = [("high/mod.rs", "use crate::ground::Thing;"), ("low/mod.rs", "use crate::high::Thing;")];
    assert_eq!(fences(&tree(&texts), ROWS), ["low/mod.rs uses high (high::Thing)"]);
}

#[test]
fn a_directory_with_a_row_is_a_part() {
    let found = |name, text| fences(&tree(&[(name, text)]), ROWS).len();
    assert_eq!(found("low/own.rs", "use crate::low::sub::Thing;"), 0);
    assert_eq!(found("low/own.rs", "use super::sub::Thing;"), 0);
    assert_eq!(found("low/sub/own.rs", "use super::Thing;"), 0);
    assert_eq!(found("low/sub/own.rs", "use super::super::Thing;"), 1);
    assert_eq!(found("low/sub/own.rs", "use crate::low::Thing;"), 1);
    assert_eq!(found("high/own.rs", "use crate::low::sub::Thing;"), 1);
    assert_eq!(found("other.rs", ""), 1, "a file without a row");
    assert_eq!(found("low/own.rs", "use crate::other::Thing;"), 1, "a path without a row");
}

#[test]
fn a_circle_of_floors_is_found() {
    assert_eq!(floors(ROWS), [""; 0]);
    assert_eq!(floors(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"]), ("d", &["a"])]).len(), 2);
    assert_eq!(floors(&[("a", &["b"])]).len(), 1);
}

#[test]
fn circles_of_files_are_found() {
    let found = |texts: &[(&str, &str)], standing: &[&[&str]]| circles(&tree(texts), ROWS, standing).len();
    let two = [("low/a.rs", "use super::b::B;"), ("low/b.rs", "use crate::low::a;"), ("low/mod.rs", "mod a; mod b;")];
    assert_eq!(found(&two, &[]), 1);
    assert_eq!(found(&two, &[&["low/a.rs", "low/b.rs"]]), 0);
    assert_eq!(found(&two[..1], &[&["low/a.rs", "low/b.rs"]]), 1, "it is gone");
    let three =
        [("low/a.rs", "use super::b::B;"), ("low/b.rs", "fn b() { super::c::c() }"), ("low/c.rs", "use super::a;")];
    assert_eq!(found(&three, &[]), 1);
    assert_eq!(found(&three, &[&["low/a.rs", "low/b.rs"]]), 2, "it has grown");
    // By the name under which the part's face has it, and by an imported module.
    let face = "mod a; mod b; pub use a::A; pub(crate) use b::B;";
    let by_face = [("low/mod.rs", face), ("low/a.rs", "use super::B;"), ("low/b.rs", "use crate::low::A;")];
    assert_eq!(found(&by_face, &[]), 1);
    let by_module = [
        ("low/mod.rs", "mod a; mod b;"),
        ("low/a.rs", "use crate::low; fn a() { low::b::b() }"),
        ("low/b.rs", "use super::a;"),
    ];
    assert_eq!(found(&by_module, &[]), 1);
    // The face re-exports a child that uses the face: no circle. A child beside it that uses both: none either.
    let face = "mod a; mod b; pub use a::A; pub struct Own;";
    let child = [("low/mod.rs", face), ("low/a.rs", "use super::Own;"), ("low/b.rs", "use super::{A, Own};")];
    assert_eq!(found(&child, &[]), 0);
    // Files of two parts are the fences' matter.
    let parts = [("low/a.rs", "use crate::high::b;"), ("high/b.rs", "use crate::low::a;")];
    assert_eq!(found(&parts, &[]), 0);
}

#[test]
fn every_word_out_of_its_place_is_found() {
    for (word, places) in ONLY_IN {
        let text = format!("#[cfg(test)]\nmod tests;\nfn own() {{ {word} }}\n");
        let planted = |name: &str| words(&tree(&[(name, &text)]), ONLY_IN);
        let expected = format!("api_planted.rs has {word:?}, which belongs in {places:?}");
        assert!(planted("api_planted.rs").contains(&expected), "{word}");
        let place = format!("{}planted.rs", places[0].trim_end_matches(".rs"));
        let place = if places[0].ends_with(".rs") { places[0] } else { place.as_str() };
        assert!(!planted(place).iter().any(|wrong| wrong.contains(&format!("has {word:?}"))), "{word} in {place}");
        assert_eq!(words(&tree(&[("planted.rs", &format!("// {word}\n/* {word} */"))]), ONLY_IN), [""; 0]);
    }
}

#[test]
fn names_that_say_nothing_are_found() {
    for name in EMPTY_NAMES {
        for planted in [format!("{name}.rs"), format!("low/{name}.rs"), format!("{name}/mod.rs")] {
            assert_eq!(named_badly(&tree(&[(&planted, "")]), EMPTY_NAMES).len(), 1, "{planted}");
        }
    }
    assert_eq!(named_badly(&tree(&[("low/commonly.rs", "")]), EMPTY_NAMES), [""; 0]);
}

#[test]
fn long_files_are_found_tests_too() {
    let found = |lines: usize| {
        let face = ("low/mod.rs", "#[cfg(test)]\nmod tests;");
        crowded(&tree(&[face, ("low/tests.rs", &"\n".repeat(lines))]), MAX_LINES).len()
    };
    assert_eq!((found(MAX_LINES), found(MAX_LINES + 1)), (0, 1));
}
