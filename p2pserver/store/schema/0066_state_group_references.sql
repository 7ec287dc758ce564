-- Who refers to a state group, so that one that nobody refers to any more can be dropped.
CREATE INDEX events_by_state_before ON events (state_before) WHERE state_before IS NOT NULL;
CREATE INDEX events_by_state_after ON events (state_after) WHERE state_after IS NOT NULL;
CREATE INDEX state_groups_by_prev ON state_groups (prev_group) WHERE prev_group IS NOT NULL;
