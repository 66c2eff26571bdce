//! The tables of metric families, one for each program: names, helps and labels are shown from it, and docs/reference/metrics.md is written from it.

/// What a family measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts in buckets.
    Histogram,
}

impl Kind {
    /// As it stands in the exposition format.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// What it measures.
    pub kind: Kind,
    /// One sentence for the operator.
    pub help: &'static str,
    /// Names of its labels; their values come from the sets in [`super::labels`].
    pub labels: &'static [&'static str],
}

const fn family(name: &'static str, kind: Kind, help: &'static str, labels: &'static [&'static str]) -> Family {
    Family { name, kind, help, labels }
}

macro_rules! families {
    ($(#[$doc:meta])* $table:ident; $($constant:ident: $name:literal, $kind:ident, [$($label:literal),*], $help:literal;)+) => {
        $(pub(crate) const $constant: Family = family($name, Kind::$kind, $help, &[$($label),*]);)+

        $(#[$doc])*
        pub const $table: &[Family] = &[$($constant),+];
    };
}

families! {
    /// Every family of the server.
    FAMILIES;
    BUILD_INFO: "d8_registry_build_info", Gauge, ["version", "revision", "mode"],
        "Always 1; what is running.";
    STORE_USED: "d8_registry_store_used_bytes", Gauge, [],
        "Bytes the store uses: blobs, those that only snapshots have, uploads and index. Absent until the first count after an unclean stop is through.";
    SNAPSHOT_BYTES: "d8_registry_snapshot_bytes", Gauge, [],
        "Bytes that only snapshots have; removing all of them frees these. Absent until the first count after an unclean stop is through.";
    SNAPSHOTS: "d8_registry_snapshots", Gauge, [],
        "Snapshots that there are, those in making and on their way out too.";
    STORE_BUDGET: "d8_registry_store_budget_bytes", Gauge, [],
        "Most bytes the store may use (store.maxBytes). Absent without a budget.";
    STORE_FREE: "d8_registry_store_free_bytes", Gauge, [],
        "Free bytes of the store's file system.";
    STORE_RESERVE: "d8_registry_store_reserve_bytes", Gauge, [],
        "Bytes of the store's file system that every write leaves free.";
    STORE_WRITABLE: "d8_registry_store_writable", Gauge, [],
        "1 while pushes are taken, 0 while nothing can be stored: no room, or a read-only file system.";
    DAMAGED_CONTENTS: "d8_registry_damaged_contents", Gauge, [],
        "Stored contents that are damaged and count as absent until they are pushed or fetched again.";
    DAMAGED_BYTES: "d8_registry_damaged_bytes", Gauge, [],
        "Bytes of damaged contents that lie on the disk.";
    DAMAGED_NEEDED: "d8_registry_damaged_contents_needed", Gauge, [],
        "Of d8_registry_damaged_contents those without a whole file that an image needs: it can't be pulled whole. The socket's /status names the images.";
    SCRUB_CONTENTS: "d8_registry_scrub_contents_total", Counter, [],
        "Contents that the scrub has read and compared with their digest.";
    SCRUB_BYTES: "d8_registry_scrub_bytes_total", Counter, [],
        "Bytes of them.";
    SCRUB_FOUND: "d8_registry_scrub_found_total", Counter, [],
        "Of those, damaged ones and such that could not be read.";
    SCRUB_INTERVAL: "d8_registry_scrub_interval_seconds", Gauge, [],
        "Time within which every content is to be read once (scrub.interval); 0: off.";
    SCRUB_BEGAN: "d8_registry_scrub_pass_began_timestamp_seconds", Gauge, [],
        "When the pass of the scrub began that goes on.";
    SCRUB_ENDED: "d8_registry_scrub_pass_ended_timestamp_seconds", Gauge, [],
        "When the last pass of the scrub was through; 0: none was.";
    DAMAGE_FOUND: "d8_registry_damage_found_total", Counter, ["cause"],
        "Files of the store found damaged: hash, unreadable, tag or list.";
    DISK_FAULT: "d8_registry_disk_fault", Gauge, [],
        "1 while more than 16 files were found damaged within ten minutes: the disk is at fault, and nothing more counts as absent.";
    PUSHES_REFUSED: "d8_registry_pushes_refused_total", Counter, ["reason"],
        "Pushes refused for lack of room: budget, reserve, inodes, quota, fileTooLong or readOnly.";
    DISK_ERRORS: "d8_registry_disk_errors_total", Counter, [],
        "Answers that failed or broke off because the store's disk did.";
    STORE_UPLOADS: "d8_registry_store_uploads", Gauge, [],
        "Uploads that are open, also those that no request writes.";
    UNUSED_BYTES: "d8_registry_unused_data_bytes", Gauge, ["mode"],
        "Bytes of data that no mode uses, as a drop would free them. Absent until they are counted.";
    INDEX_STATE: "d8_registry_index_state", Gauge, ["state"],
        "1 for what the index is doing: closed, rebuilding or ready. Listings need ready, pulls and pushes do not.";
    HTTP_REQUESTS: "d8_registry_http_requests_total", Counter, ["method", "route", "status"],
        "Requests answered.";
    HTTP_DURATION: "d8_registry_http_request_duration_seconds", Histogram, ["method", "route"],
        "Time from the head of a request to the last byte of its answer.";
    HTTP_IN_FLIGHT: "d8_registry_http_requests_in_flight", Gauge, [],
        "Requests being answered now.";
    HTTP_RECEIVED: "d8_registry_http_received_bytes_total", Counter, [],
        "Bytes of request bodies received.";
    HTTP_SENT: "d8_registry_http_sent_bytes_total", Counter, [],
        "Bytes of response bodies sent.";
    AUTH_FAILURES: "d8_registry_auth_failures_total", Counter, ["reason"],
        "Requests that were not let through. The reason missing is the normal first step of most clients.";
    TLS_FAILURES: "d8_registry_tls_failures_total", Counter, ["reason"],
        "TLS handshakes that came to nothing: http (no TLS), not_tls, certificate_refused (the client does not accept ours), incompatible, client_certificate, closed (TCP probes too), timeout, other.";
    CERTIFICATE_EXPIRY: "d8_registry_certificate_expiry_timestamp_seconds", Gauge, ["use"],
        "When a certificate in force stops being valid.";
    CONFIG_VALID: "d8_registry_config_valid", Gauge, [],
        "1 while the configuration on disk is the one in force, 0 after it was refused.";
    CONFIG_RELOADS: "d8_registry_config_reloads_total", Counter, ["outcome"],
        "Reloads of configuration, users or certificates.";
    CACHE_ANSWERS: "d8_registry_cache_answers_total", Counter, ["kind", "outcome"],
        "Answers of modes Direct and Proxy by how they came about, in the words of d8-registry-cache; of mode Local those from other masters (peer).";
    PREVIOUS_ANSWERS: "d8_registry_previous_answers_total", Counter, [],
        "Answers by a mode before the one in force, which had not what was asked for. Only during a switch.";
    MODE_FILE_VALID: "d8_registry_mode_file_valid", Gauge, [],
        "1 while the mode file on disk is the one in force, 0 after it was refused or is gone. Absent where modeFile is not set or there was none yet.";
    UPSTREAM_RECEIVED: "d8_registry_upstream_received_bytes_total", Counter, [],
        "Bytes of bodies received from the upstream. Bytes sent to clients divided by these is what the cache saves.";
    UPSTREAM_REQUESTS: "d8_registry_upstream_requests_total", Counter, ["outcome"],
        "Requests to the upstream: ok, or why there was no good answer.";
    UPSTREAM_DURATION: "d8_registry_upstream_request_duration_seconds", Histogram, [],
        "Time until the head of the upstream's answer, or until there was none.";
    UPSTREAM_CIRCUITS: "d8_registry_upstream_circuits_open", Gauge, [],
        "Upstream hosts that are not asked for now, because they are down.";
    UPSTREAM_PROBES: "d8_registry_upstream_probes_total", Counter, ["outcome"],
        "Probes of the upstream and its credentials: ok, unreachable, auth or notFound.";
    UPSTREAM_ACCEPTED: "d8_registry_upstream_accepted_timestamp_seconds", Gauge, [],
        "When the upstream last gave what it was asked for; 0 before the first time.";
    FILLS_RUNNING: "d8_registry_fills_running", Gauge, [],
        "Blobs being fetched into the store now.";
    FILL_ERRORS: "d8_registry_fill_errors_total", Counter, ["cause"],
        "Fetches into the store that failed, for upstream, digest, disk, full, readOnly or descriptors.";
    STALE_ANSWERS: "d8_registry_stale_answers_total", Counter, ["cause"],
        "Answers from the store although they should have been revalidated, by what the upstream did.";
    EVICTIONS: "d8_registry_evictions_total", Counter, ["cause"],
        "Cached blobs removed, for room or for their ttl.";
    EVICTED_BYTES: "d8_registry_evicted_bytes_total", Counter, ["cause"],
        "Bytes of cached blobs removed, for room or for their ttl.";
    PEERS: "d8_registry_peers", Gauge, [],
        "Other masters in the list that is in force (replicas.peers). Absent where it is not set.";
    PEERS_IN_FORCE: "d8_registry_peers_in_force", Gauge, [],
        "1 while the files of replicas are in force as they are on disk, 0 after they were refused. Absent where they are not set.";
    PEERS_ASKED: "d8_registry_peers_asked_total", Counter, ["answer"],
        "Questions to all other masters for what is not stored here: found (one has it), absent (none has it), unanswered (none said so, and one or more gave no answer).";
    UPLOADS_PASSED_ON: "d8_registry_uploads_passed_on_total", Counter, ["outcome"],
        "Requests for an upload that lies at another master, passed on to it: answered, or unanswered (it gave none, and the client begins again).";
    RECORDS_EQUAL: "d8_registry_records_equal_timestamp_seconds", Gauge, ["master"],
        "When this master and that one last had the same records of tags and manifests; 0: not since the start. Absent where replicas is not set.";
    REPOSITORIES_LACKING: "d8_registry_repositories_lacking", Gauge, ["master"],
        "Repositories in which that master has other records, of those that are to be compared yet. Absent where replicas is not set.";
    RECORDS_LACKING: "d8_registry_records_lacking", Gauge, ["master"],
        "Records of that master in these repositories. Absent where replicas is not set.";
    MASTERS_CLOCK_OFFSET: "d8_registry_masters_clock_offset_seconds", Gauge, ["master"],
        "How far that master's clock is from this one's, in either direction. Absent where replicas is not set.";
    RECORDS_TAKEN: "d8_registry_records_taken_total", Counter, [],
        "Records of other masters that count here. Absent where replicas is not set.";
    RECORDS_REFUSED: "d8_registry_records_refused_total", Counter, [],
        "Records of other masters that were refused because their clock is more than 24 hours ahead, counted each time. Absent where replicas is not set.";
    RECORDS_BYTES: "d8_registry_records_fetched_bytes_total", Counter, [],
        "Bytes fetched from other masters for what their records name. Absent where replicas is not set.";
    PUSHES_SHORT: "d8_registry_pushes_short_total", Counter, ["outcome"],
        "Pushes that fewer masters had than replicas.minCopies wants: accepted with a warning, or refused.";
    GC_HELD: "d8_registry_gc_held", Gauge, [],
        "1 while nothing is collected because another mode than Local is in force, is coming or not over.";
    PINS_USABLE: "d8_registry_pins_usable", Gauge, [],
        "1 while store.pins says what stays; 0 while it is missing, empty, unreadable or too old: nothing is removed then. Absent where it is not set.";
    EXPECTED_USABLE: "d8_registry_expected_usable", Gauge, [],
        "1 while store.expected says what has to be in the store; 0 while it is missing, empty or unreadable: the list before counts, if there was one. Absent where it is not set.";
    EXPECTED_IMAGES: "d8_registry_expected_images", Gauge, ["mode"],
        "Images that store.expected wants in the store, those that the lists of its releases name among them; by the mode whose repositories were looked at. Absent before the first look.";
    EXPECTED_MISSING: "d8_registry_expected_missing_images", Gauge, ["mode"],
        "Those of them that are not there whole.";
    EXPECTED_WHOLE: "d8_registry_expected_whole", Gauge, ["mode"],
        "1 while none of them is missing.";
    EXPECTED_LOOKED: "d8_registry_expected_look_timestamp_seconds", Gauge, ["mode"],
        "When the last whole look at them ended.";
    GC_SUSPECTS: "d8_registry_gc_suspects", Gauge, [],
        "Contents that nothing reaches and that wait for their grace to end.";
    GC_LEFT_ALONE: "d8_registry_gc_repositories_left_alone", Gauge, [],
        "Repositories of which nothing is collected because something in them is damaged or can't be read.";
    GC_MASTERS_AWAY: "d8_registry_gc_masters_away", Gauge, [],
        "1 while no manifest and no tag goes by itself because not all other masters could be asked in the last run.";
    GC_KEPT_BY_MASTERS: "d8_registry_gc_kept_by_masters", Gauge, [],
        "Manifests and tags that would have gone in the last run, and that another master needs.";
    GC_REMOVED: "d8_registry_gc_removed_total", Counter, ["kind"],
        "Contents that nothing reached and that were taken out of their repository: blob or manifest.";
    GC_FREED: "d8_registry_gc_freed_bytes_total", Counter, [],
        "Bytes that the collection freed.";
    RETENTION_REMOVED: "d8_registry_retention_removed_tags_total", Counter, [],
        "Tags that went by a rule.";
    RETENTION_GIVEN_UP: "d8_registry_retention_given_up_manifests", Gauge, [],
        "Manifests whose last tag went by a rule and that are still there, for their grace or because they are asked for.";
    RETENTION_LEFT_ALONE: "d8_registry_retention_left_alone", Gauge, [],
        "Roots and repositories of which no rule removes anything, because a list can't be read or something is damaged.";
    JOB_RUNS: "d8_registry_job_runs_total", Counter, ["name", "result"],
        "Runs of what works beside requests: ok, failed or panicked.";
    JOB_RUNNING: "d8_registry_job_running", Gauge, ["name"],
        "1 while the job runs.";
    JOB_LAST_SUCCESS: "d8_registry_job_last_success_timestamp_seconds", Gauge, ["name"],
        "When a run of the job last did its work; 0 before the first time.";
    JOB_PROGRESS_DONE: "d8_registry_job_progress_done", Gauge, ["name"],
        "How far the run of the job is, in what the job counts. Absent while none runs that says so.";
    JOB_PROGRESS_EXPECTED: "d8_registry_job_progress_expected", Gauge, ["name"],
        "What job_progress_done comes to at the end of the run. Absent where that is not known.";
    LOG_DROPPED: "d8_registry_log_lines_dropped_total", Counter, [],
        "Log lines lost because whoever reads the log was too slow.";
    PROCESS_CPU: "process_cpu_seconds_total", Counter, [],
        "CPU time used, user and system.";
    PROCESS_OPEN_FDS: "process_open_fds", Gauge, [],
        "Open file descriptors.";
    PROCESS_MAX_FDS: "process_max_fds", Gauge, [],
        "Most file descriptors the process may open.";
    PROCESS_VIRTUAL: "process_virtual_memory_bytes", Gauge, [],
        "Virtual memory.";
    PROCESS_RESIDENT: "process_resident_memory_bytes", Gauge, [],
        "Resident memory.";
    PROCESS_START: "process_start_time_seconds", Gauge, [],
        "When the process was started.";
    PROCESS_THREADS: "process_threads", Gauge, [],
        "Threads.";
}

families! {
    /// Every family of `node-proxy`.
    NODE_PROXY_FAMILIES;
    NODE_PROXY_LISTENING: "d8_registry_node_proxy_listening", Gauge, ["address"],
        "1 while node-proxy holds the address, 0 while another process does and node-proxy waits beside it.";
    NODE_PROXY_BACKEND_UP: "d8_registry_node_proxy_backend_up", Gauge, ["backend"],
        "1 for a server that health checks reach, or about which nothing is known yet, 0 for one that is down.";
    NODE_PROXY_CONNECTIONS: "d8_registry_node_proxy_connections", Gauge, ["backend"],
        "Connections that lead to the server now.";
}

families! {
    /// Every family of `node-agent`.
    NODE_AGENT_FAMILIES;
    NODE_AGENT_PULL: "d8_registry_node_agent_pull_ok", Gauge, ["check"],
        "1 if the last question for the pinned image was answered as containerd needs it, else 0: its manifest, or a blob of it, or (node_proxy) its manifest at 127.0.0.1 alone. Absent while nothing is asked for.";
    NODE_AGENT_PULLED: "d8_registry_node_agent_pull_timestamp_seconds", Gauge, ["check"],
        "When that was answered last.";
    NODE_AGENT_PULLS: "d8_registry_node_agent_pulls_total", Counter, ["check", "result"],
        "Questions for the pinned image: ok or failed.";
    NODE_AGENT_FOLLOWS: "d8_registry_node_agent_follows", Gauge, [],
        "1 while containerd's files are as registry-bashible-config, or the copy of it, wants them; 0 while there is none or it can't be followed.";
    NODE_AGENT_PROBLEM: "d8_registry_node_agent_problem", Gauge, ["kind"],
        "1 while something is wrong on the node: source (the Secret is gone or wrong), files (of others, or changed by hand), containerd (its configuration), restart (not since that was changed), failed (a file can't be read or written).";
    NODE_AGENT_WANTED: "d8_registry_node_agent_wanted", Gauge, [],
        "0 while nothing is wanted of the node: no registry-bashible-config is mounted, no copy of one and no file of ours is left, or bashible writes the node; else 1.";
    NODE_AGENT_API: "d8_registry_node_agent_api_up", Gauge, [],
        "1 if the API server took the last answer of the node, else 0.";
}

families! {
    /// Every family of the controller.
    SWITCH_FAMILIES;
    SWITCH_LEADER: "d8_registry_switch_leader", Gauge, [],
        "1 for the controller that writes, 0 for one that stands by.";
    SWITCH_INFO: "d8_registry_switch_info", Gauge, ["mode", "target"],
        "Always 1; the mode whose switch ended last, and the wanted one.";
    SWITCH_CONDITION: "d8_registry_switch_condition", Gauge, ["type", "status"],
        "1 for the status that a condition of registry-state has, 0 for the other.";
    SWITCH_STEP: "d8_registry_switch_step_seconds", Gauge, [],
        "How long the switch has been at its present step; 0 while none is under way.";
    SWITCH_NODES: "d8_registry_switch_nodes", Gauge, ["state"],
        "Nodes by how far they are: converged, waiting, skipped; and not_ready, which are among these.";
    SWITCH_SLOW_NODE: "d8_registry_switch_slow_node", Gauge, ["node"],
        "1 for a node that has kept the switch waiting for 10 minutes, for the first 100 by name. Absent otherwise.";
    SWITCH_HELD: "d8_registry_switch_held", Gauge, ["reason"],
        "1 while nothing is changed, by why. Absent otherwise.";
    SWITCH_INPUT_LOST: "d8_registry_switch_input_lost", Gauge, [],
        "1 while the settings in force have vanished or can't be read.";
    SWITCH_REPAIRS: "d8_registry_switch_output_repairs_total", Counter, ["output"],
        "Objects of ours that somebody else had changed or removed, and that were put back.";
    SWITCH_WRITES: "d8_registry_switch_writes_total", Counter, ["output"],
        "Objects written.";
    SWITCH_WRITE_FAILURES: "d8_registry_switch_write_failures_total", Counter, ["output"],
        "Writes that the API server refused or did not answer; of registry-pins also looks at what runs that came to nothing.";
    SWITCH_PINNED: "d8_registry_switch_pins_timestamp_seconds", Gauge, [],
        "When registry-pins was written that says what the cluster runs; of the controller that leads.";
    SWITCH_LOOKED: "d8_registry_switch_look_timestamp_seconds", Gauge, [],
        "When the cluster was last looked at as a whole.";
    SWITCH_CALLS: "d8_registry_switch_api_calls_total", Counter, [],
        "Calls of the API server, those that failed among them; watches are not counted.";
    SWITCH_LOOK_FAILURES: "d8_registry_switch_look_failures_total", Counter, [],
        "Looks that came to nothing, as the API server was away.";
}
