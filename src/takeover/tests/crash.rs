//! An import that is left at each durable step: no content is lost that was moved, no tag leads to half an image, and the next
//! run ends the same.

use std::panic::{AssertUnwindSafe, catch_unwind};

use fail::FailScenario;

use super::*;
use crate::jobs::Progress;

const POINTS: &[&str] = &[
    "store::intake::before_move",
    "store::intake::after_move",
    "store::content::before_rename",
    "store::content::after_rename",
    "store::content::before_link",
    "store::content::after_link",
    "store::intake::before_release",
    "store::tag::before_rename",
    "store::tag::after_rename",
];

#[test]
fn an_import_that_ends_at_any_step_loses_nothing_and_can_be_done_again() {
    let scenario = FailScenario::setup();
    for point in POINTS {
        for moves in [false, true] {
            if !moves && point.ends_with("_move") {
                continue;
            }
            let dir = quick_dir();
            let (source, data) = (dir.path().join("source"), dir.path().join("data"));
            let tree = Tree::new(&source).unwrap();
            for number in 0..3 {
                let blobs = [format!("config {number}").into_bytes(), b"shared".to_vec()];
                write_image(&tree, if number == 2 { "b" } else { "a" }, Some(&format!("v{number}")), &blobs);
            }
            let first = store(&data);
            // At the third time: some have come whole.
            fail::cfg(*point, "2*off->panic").unwrap();
            let ended = catch_unwind(AssertUnwindSafe(|| run(&first, &source, &options(moves))));
            fail::remove(*point);
            assert!(ended.is_err(), "{point} is not on the way");
            drop(first);

            // A server that is started in between counts, and removes what no repository has.
            let second = store(&data);
            let counted = inside(|| second.count_for_tests(&CancellationToken::new(), &Progress::default()));
            counted.unwrap();
            let report = run(&second, &source, &options(moves)).unwrap();
            assert!(report.is_whole(), "{point}: {report:?}");
            assert_eq!(tags(&data).len(), 3, "{point}");
            assert_tidy(&second);
            assert!(files_below(&data.join("takeover")).is_empty(), "{point}");
        }
    }
    scenario.teardown();
}
