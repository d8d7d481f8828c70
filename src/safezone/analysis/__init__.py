"""When (timesteps) and where (image regions) a poison acts: functions from arrays to arrays."""
