//! The cases: each is a cluster of its own.

use std::future::Future;
use std::pin::Pin;

use d8_registry::switch::{ConditionType, Target};
use k8s_openapi::api::core::v1::Node as NodeObject;

use super::calls::{
    a_lease_has_one_holder_and_passes_on_when_it_is_given_back,
    a_write_needs_the_version_that_was_read_and_touches_nothing_else,
    the_controllers_account_may_do_its_work_and_nothing_else, what_names_an_address_is_found_whatever_it_is,
};
use super::first::a_module_config_that_was_seen_without_settings_is_followed_once_it_has_some;
use super::kills::{
    a_controller_that_is_killed_again_and_again_goes_on, a_controller_that_is_killed_between_any_two_writes_goes_on,
    refused_writes_change_nothing_and_a_killed_controller_goes_on,
};
use super::masters::{
    a_switch_to_local_waits_for_the_images_of_every_master, servers_that_change_at_different_times_fail_no_pull,
};
use super::pairs::{a_switch_at_the_default_pace_without_a_failed_pull, every_pair_of_modes_without_a_failed_pull};
use super::people::under_deckhouses_policies_the_commands_of_an_administrator_do_what_they_say;
use super::repairs::{
    what_somebody_edits_or_deletes_is_put_back_in_a_settled_cluster,
    what_somebody_edits_or_deletes_is_put_back_in_the_middle_of_a_switch,
};
use super::said::{
    beside_deckhouses_own_module_the_controller_writes_nothing,
    settings_that_are_wrong_or_that_deckhouse_would_refuse_are_said_and_change_nothing,
};
use super::skipping::a_skipped_node_keeps_its_source_until_it_is_back_or_deleted;
use super::undo::{
    the_nodes_secret_is_deleted_for_good_in_settled_bare_unmanaged_alone,
    the_old_mode_set_in_every_phase_is_reached_without_a_failed_pull,
};
use super::upstream::{
    a_controller_that_moves_nothing_is_replaced_and_what_was_kept_goes_after_seven_days,
    an_expired_licence_is_replaced_while_deckhouse_and_the_controller_are_down,
    another_upstream_comes_by_the_controller_or_in_its_place_and_is_undone,
};
use super::wanted::Wanted;
use super::world::World;

/// A case.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) run: fn() -> Pin<Box<dyn Future<Output = ()>>>,
    /// Whether it runs where none is named.
    pub(crate) by_default: bool,
}

macro_rules! cases {
    ($($(#[$long:ident])? $name:ident),+ $(,)?) => {
        pub(crate) const ALL: &[(&str, Case)] =
            &[$((stringify!($name), Case { run: || Box::pin($name()), by_default: true $(&& stringify!($long).is_empty())? })),+];
    };
}

cases! {
    a_write_needs_the_version_that_was_read_and_touches_nothing_else,
    a_lease_has_one_holder_and_passes_on_when_it_is_given_back,
    what_names_an_address_is_found_whatever_it_is,
    the_controllers_account_may_do_its_work_and_nothing_else,
    five_pairs_of_modes_without_a_failed_pull,
    servers_that_change_at_different_times_fail_no_pull,
    a_target_that_changes_in_the_middle_loses_no_image,
    a_controller_that_is_killed_again_and_again_goes_on,
    refused_writes_change_nothing_and_a_killed_controller_goes_on,
    one_of_two_controllers_writes_and_the_other_takes_over,
    nothing_changes_while_the_api_server_is_away,
    nodes_that_join_and_leave_are_taken_along,
    a_skipped_node_keeps_its_source_until_it_is_back_or_deleted,
    what_somebody_edits_or_deletes_is_put_back_in_a_settled_cluster,
    settings_that_are_wrong_or_that_deckhouse_would_refuse_are_said_and_change_nothing,
    beside_deckhouses_own_module_the_controller_writes_nothing,
    the_old_mode_set_in_every_phase_is_reached_without_a_failed_pull,
    the_nodes_secret_is_deleted_for_good_in_settled_bare_unmanaged_alone,
    under_deckhouses_policies_the_commands_of_an_administrator_do_what_they_say,
    a_module_config_that_was_seen_without_settings_is_followed_once_it_has_some,
    an_expired_licence_is_replaced_while_deckhouse_and_the_controller_are_down,
    another_upstream_comes_by_the_controller_or_in_its_place_and_is_undone,
    a_controller_that_moves_nothing_is_replaced_and_what_was_kept_goes_after_seven_days,
    #[long]
    every_pair_of_modes_without_a_failed_pull,
    #[long]
    a_switch_at_the_default_pace_without_a_failed_pull,
    #[long]
    a_controller_that_is_killed_between_any_two_writes_goes_on,
    #[long]
    what_somebody_edits_or_deletes_is_put_back_in_the_middle_of_a_switch,
    #[long]
    a_switch_to_local_waits_for_the_images_of_every_master,
}

pub(crate) const MASTER: &[&str] = &["master-0"];
/// The plain one reaches the registry outside by way of the servers alone.
pub(crate) const WORKERS: &[&str] = &["plain-0", "worker-1"];

/// A cluster with a controller, in the first managed mode.
async fn direct() -> World {
    let mut world = World::start(MASTER, WORKERS).await;
    world.control(0);
    world.switch(Wanted::Direct(0)).await;
    world
}

async fn five_pairs_of_modes_without_a_failed_pull() {
    let world = direct().await;
    by_node_proxy(&world).await;
    for wanted in [Wanted::Proxy(0), Wanted::Local, Wanted::Proxy(1)] {
        world.switch(wanted).await;
        by_node_proxy(&world).await;
    }
    world.switch(Wanted::Configured(0)).await;
}

/// In a managed mode a node whose containerd has no rewrites pulls by node-proxy alone.
async fn by_node_proxy(world: &World) {
    const NODE: &str = "plain-0";
    let mirrors: Vec<String> = {
        let nodes = world.roles.nodes.lock().unwrap();
        let hosts = nodes[NODE].hosts.lock().unwrap();
        let usable = hosts.values().flatten().filter(|mirror| mirror.rewrites.is_empty());
        usable.map(|mirror| mirror.host.clone()).collect()
    };
    assert_eq!(mirrors, ["127.0.0.1:5001"]);
    world.assert_pulled_by(NODE).await;
}

async fn a_target_that_changes_in_the_middle_loses_no_image() {
    let world = direct().await;
    world.hold("worker-1");
    world.want(Wanted::Proxy(0)).await;
    world.until_condition(Target::Proxy, ConditionType::TransitionContainerdConfigReady, false).await;
    // Undone.
    world.want(Wanted::Direct(0)).await;
    world.roles.release("worker-1").await;
    world.finish(Wanted::Direct(0)).await;
    // And again, to another one, once Deckhouse runs with the first.
    world.want(Wanted::Proxy(1)).await;
    world.until_condition(Target::Proxy, ConditionType::DeckhouseRegistrySwitchReady, true).await;
    world.want(Wanted::Local).await;
    world.finish(Wanted::Local).await;
}

async fn one_of_two_controllers_writes_and_the_other_takes_over() {
    let mut world = direct().await;
    world.control(1);
    let leads = |number| {
        let world = &world;
        async move { world.metric(number, "d8_registry_switch_leader").await }
    };
    world.until("the second one stands by", || async { leads(1).await == Some(0) }).await;
    assert_eq!(leads(0).await, Some(1));
    world.hold("worker-1");
    world.want(Wanted::Proxy(0)).await;
    world.until_condition(Target::Proxy, ConditionType::TransitionContainerdConfigReady, false).await;
    world.kill(0);
    world.roles.release("worker-1").await;
    world.finish(Wanted::Proxy(0)).await;
    assert_eq!(world.metric(1, "d8_registry_switch_leader").await, Some(1));
    // One that ends in order gives the Lease back: the next one needs not wait for its end.
    world.control(0);
    world
        .until("the first one stands by", || async { world.metric(0, "d8_registry_switch_leader").await == Some(0) })
        .await;
    world.terminate(1);
    world.switch(Wanted::Direct(0)).await;
    assert_eq!(world.metric(0, "d8_registry_switch_leader").await, Some(1));
}

async fn nothing_changes_while_the_api_server_is_away() {
    let world = direct().await;
    world.hold("worker-1");
    world.want(Wanted::Proxy(0)).await;
    world.until_condition(Target::Proxy, ConditionType::TransitionContainerdConfigReady, false).await;
    let failures = world.metric(0, "d8_registry_switch_look_failures_total").await.unwrap();
    world.api.pause();
    world
        .until("looks fail", || async {
            world.metric(0, "d8_registry_switch_look_failures_total").await.is_some_and(|now| now > failures)
        })
        .await;
    world.assert_pulled().await;
    world.api.resume();
    world.roles.release("worker-1").await;
    world.finish(Wanted::Proxy(0)).await;
}

async fn nodes_that_join_and_leave_are_taken_along() {
    let mut world = direct().await;
    world.hold("worker-1");
    world.want(Wanted::Proxy(0)).await;
    world.until_condition(Target::Proxy, ConditionType::TransitionContainerdConfigReady, false).await;
    // One comes in the middle and is waited for; the one that was waited for goes.
    world.hold("worker-2");
    world.join("worker-2", None, true).await;
    world.leave("worker-1").await;
    world
        .until("the new node is waited for", || async {
            let condition = world.condition(ConditionType::TransitionContainerdConfigReady).await;
            condition.is_some_and(|condition| {
                condition.message.contains("worker-2") && !condition.message.contains("worker-1")
            })
        })
        .await;
    world.roles.release("worker-2").await;
    world.finish(Wanted::Proxy(0)).await;
    assert!(world.roles.nodes.lock().unwrap().contains_key("worker-2"));
    assert_eq!(world.api.all::<NodeObject>().list(&kube::api::ListParams::default()).await.unwrap().items.len(), 3);
    assert!(world.is(ConditionType::Ready, true).await);
}
