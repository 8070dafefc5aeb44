// Loaded with --import before a program of the lab or of a test. When the parent ends, by SIGKILL too, the IPC channel
// closes. Without this, the program would keep running and keep its port.
process.on('disconnect', () => process.kill(process.pid, 'SIGTERM'));
// The channel must not keep a program alive that has finished.
process.channel?.unref();
