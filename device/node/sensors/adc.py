"""A voltage at an ADC pin, as it is or through a calibration: soil moisture, a battery divider.

    {"kind": "adc", "name": "soil", "pin": 34, "value": "moisture_pct", "unit": "%",
     "points": [[2.8, 0], [1.2, 100]], "digits": 1}

points: [volts at the pin, value], at least two, volts rising or falling; between them it is a
straight line, outside it is the end point. Without points it is the voltage times `scale` (1).
"""

from node.sensor import Sensor


class Adc(Sensor):
    def open(self, settings, board):
        machine = board.machine
        pin = machine.Pin(settings["pin"])
        self._adc = machine.ADC(pin, atten=machine.ADC.ATTN_11DB)  # about 0.1 to 3.1 V
        self._points = sorted(settings["points"]) if settings.get("points") else None
        self._scale = settings.get("scale", 1)
        self._digits = settings.get("digits", 3)
        self._samples = settings.get("samples", 8)
        self.UNITS = ((settings.get("value", "voltage_v"), settings.get("unit", "V")),)

    def read(self):
        total = 0
        for _ in range(self._samples):
            total += self._adc.read_uv()
        volts = total / self._samples / 1e6
        return (round(self._value(volts), self._digits),)

    def _value(self, volts):
        points = self._points
        if points is None:
            return volts * self._scale
        if volts <= points[0][0]:
            return points[0][1]
        for i in range(1, len(points)):
            x1, y1 = points[i]
            if volts <= x1:
                x0, y0 = points[i - 1]
                return y0 + (y1 - y0) * (volts - x0) / (x1 - x0)
        return points[-1][1]


make = Adc
