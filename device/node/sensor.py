"""What every sensor is: a name, units, a period, and a read() that may fail now and then."""


class Sensor:
    """Base of all sensors.

    UNITS: what read() returns, in order: ((value name, unit), ...). The name carries the unit.
    WARM_MS: from start() to read(). RETRIES, RETRY_MS: after a read() that raised.
    EVENTS: poll() is called all the time and returns values when something has happened.
    """

    UNITS = ()
    WARM_MS = 0
    RETRIES = 2
    RETRY_MS = 2000
    EVENTS = False

    def __init__(self, settings, board):
        self.name = settings["name"]
        self.kind = settings["kind"]
        self.period_ms = int(settings["period_s"] * 1000)
        self.errors = 0
        self.open(settings, board)
        self.keys = tuple([key for key, _unit in self.UNITS])
        self.due = 0  # uptime [ms] of the next start()
        self.ready = -1  # uptime [ms] of the next read(), -1: not started
        self.tries = 0

    def open(self, settings, board):
        """Take the pins. Raise KeyError for a setting that is missing."""

    def start(self):
        """Begin a measurement."""

    def read(self):
        """Return the values as a tuple, or a list of (name suffix, tuple); raise if it failed."""
        raise NotImplementedError

    def poll(self, now_ms):
        """Return values if something happened, else None."""
        return


class Sampler:
    """Reads every sensor on its own period. put: called as put(uptime_ms, name, keys, values)."""

    def __init__(self, sensors, put):
        self.sensors = sensors
        self.put = put

    def step(self, now):
        """Start and read what is due; never waits but for the drivers themselves."""
        for sensor in self.sensors:
            try:
                if sensor.EVENTS:
                    values = sensor.poll(now)
                    if values is not None:
                        self.put(now, sensor.name, sensor.keys, values)
                if sensor.ready < 0:
                    if now < sensor.due:
                        continue
                    sensor.start()
                    sensor.ready = now + sensor.WARM_MS
                if now >= sensor.ready:
                    values = sensor.read()
                    if values is not None:
                        if not isinstance(values, list):
                            values = (("", values),)
                        for suffix, some in values:
                            self.put(now, sensor.name + suffix, sensor.keys, some)
                    self._done(sensor, now)
            except Exception as error:  # drivers raise bare Exception
                self._failed(sensor, now, error)

    def next_ms(self, now, ms):
        """Return how long [ms] there is nothing to do here, at most `ms`."""
        for sensor in self.sensors:
            if sensor.EVENTS:
                ms = min(ms, 5)
            wait = (sensor.due if sensor.ready < 0 else sensor.ready) - now
            if wait < ms:
                ms = max(0, wait)
        return ms

    def read_now(self, name=None):
        """Let the sensor of that name, or all, be read at once; return how many those are."""
        count = 0
        for sensor in self.sensors:
            if name is None or sensor.name == name:
                sensor.due = 0
                count += 1
        return count

    def _done(self, sensor, now):
        sensor.ready = -1
        sensor.tries = 0
        sensor.due += sensor.period_ms
        if sensor.due <= now:  # first time, or late: the next multiple from here
            sensor.due = now + sensor.period_ms

    def _failed(self, sensor, now, error):
        sensor.errors += 1
        sensor.ready = -1
        sensor.tries += 1
        if sensor.tries > sensor.RETRIES:
            print("sensor", sensor.name, type(error).__name__, error)
            self._done(sensor, now)
        else:
            sensor.due = now + min(sensor.RETRY_MS, sensor.period_ms)
