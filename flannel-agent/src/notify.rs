//! What systemd is told (`Type=notify`). Not under systemd is not an error, so nothing here can fail.

use sd_notify::NotifyState;

/// The node has its subnet, and the subnet file says so.
pub fn ready() {
    let _ = sd_notify::notify(&[NotifyState::Ready]);
}

/// How it stands, for `systemctl status`: one line.
pub fn status(line: &str) {
    let _ = sd_notify::notify(&[NotifyState::Status(line)]);
}

/// The agent ends on request.
pub fn stopping() {
    let _ = sd_notify::notify(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}
