//! What changes while flows skip the host stack: rules, pods, ports, the agent's mind.
