//! Tells Zed how to start the language server, which is a program of its own, and hands it the user's settings.

use zed_extension_api::{
    self as zed, serde_json::Value, settings::LspSettings, LanguageServerId, Result, Worktree,
};

struct Diffcoder;

impl zed::Extension for Diffcoder {
    fn new() -> Self {
        Self
    }

    fn language_server_command(
        &mut self,
        _: &LanguageServerId,
        worktree: &Worktree,
    ) -> Result<zed::Command> {
        let command = worktree
            .which("diffcoder")
            .ok_or("diffcoder is not on the PATH; install it, or set lsp.diffcoder.binary in Zed's settings")?;
        Ok(zed::Command {
            command,
            args: vec!["lsp".into()],
            env: worktree.shell_env(),
        })
    }

    /// What Zed answers when the server asks for its section of the settings.
    fn language_server_workspace_configuration(
        &mut self,
        id: &LanguageServerId,
        worktree: &Worktree,
    ) -> Result<Option<Value>> {
        let settings = LspSettings::for_worktree(id.as_ref(), worktree)?.settings;
        Ok(settings.map(|own| zed::serde_json::json!({ "diffcoder": own })))
    }
}

zed::register_extension!(Diffcoder);
