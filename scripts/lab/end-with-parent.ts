// Loaded with --import before a program of the lab. The IPC channel closes when the lab dies, by SIGKILL
// too; without this its parts would stay behind, and hold the port.
process.on('disconnect', () => process.kill(process.pid, 'SIGTERM'));
// Listening must not keep a program alive that has come to its end.
process.channel?.unref();
